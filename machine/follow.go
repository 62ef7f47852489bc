package machine

import (
	"context"
	"strconv"
	"sync"
	"time"

	"vmfs/backends/hypervisor"
	"vmfs/internal/wait"
	"vmfs/machine/events"
)

// takeInfo sets state and memory from what the VMM said, but for what an event
// has told since the counts in asked. The caller holds v.mu.
func (s *session) takeInfo(info hypervisor.VMInfo, asked telling) {
	switch st := &s.v.status; {
	case info.MemoryActualSize == nil:
		if st.MemoryErr != nil {
			st.MemoryErr = errMemoryUnknown
		}
	case s.told.memory == asked.memory:
		st.MemoryActual, st.MemoryErr = *info.MemoryActualSize, nil
	}
	if s.told.state == asked.state {
		s.takeState(info)
	}
}

// takeState is the part of takeInfo that is about the state.
func (s *session) takeState(info hypervisor.VMInfo) {
	v := s.v
	s.told.pausing = false
	state := info.State
	if state == hypervisor.StateCreated {
		state = hypervisor.StatePaused // it has a VMM, and its vCPUs stand still
	}
	v.setState(state, info.Reason)
	if state == hypervisor.StateShutdown {
		s.guestEnded(info.Reason)
	}
}

// refresh asks the VMM how it is, for where no event tells.
func (s *session) refresh(ctx context.Context, hv hypervisor.Hypervisor) error {
	ctx, cancel := context.WithTimeout(ctx, s.v.host.opts.Timeouts.Verb)
	defer cancel()
	s.v.mu.Lock()
	asked := s.told
	s.v.mu.Unlock()
	info, err := hv.GetVMInfo(ctx)
	if err != nil {
		return err
	}
	s.v.update(func() {
		if s.hv == hv {
			s.takeInfo(*info, asked)
		}
	})
	return nil
}

// follow takes the VMM's events until the VMM or the connection to it is gone.
func (s *session) follow(hv hypervisor.Hypervisor) {
	ctx, cancel := context.WithCancel(s.alive)
	var typing sync.WaitGroup
	typing.Go(func() { s.input.Run(ctx, hv) })
	defer typing.Wait()
	defer cancel()

	var from <-chan hypervisor.Event
	if es, ok := hv.(hypervisor.EventSource); ok {
		from = es.Events()
	}
	for {
		select {
		case e, ok := <-from:
			if !ok {
				if s.watched {
					// A VMM closes its socket a moment before its process is gone.
					wait.For(s.alive, time.Second)
				}
				return
			}
			s.take(e)
			if e.Kind == hypervisor.EventLost {
				// Some may have told of another state. One that does not answer
				// tells by its next event, or by its end.
				_ = s.refresh(s.alive, hv)
			}
		case <-s.alive.Done():
			s.drain(from)
			return
		}
	}
}

// drain takes what events there are from a VMM that is gone.
func (s *session) drain(from <-chan hypervisor.Event) {
	timer := time.NewTimer(2 * time.Second)
	defer timer.Stop()
	for from != nil {
		select {
		case e, ok := <-from:
			if !ok {
				return
			}
			s.take(e)
		case <-timer.C:
			return
		case <-s.v.host.ctx.Done():
			return
		}
	}
}

// take makes an event of the VMM's one of the VM's.
func (s *session) take(e hypervisor.Event) {
	v := s.v
	e = e.Cut()
	v.update(func() {
		if e.State != "" {
			s.told.state++
		}
		if e.State == hypervisor.StateShutdown {
			s.guestEnded(e.Reason)
			for _, d := range e.Detail {
				if d.Key == "exit" {
					s.exitHow = d.Value
				}
			}
		}
		switch {
		case e.State == "" || e.State == hypervisor.StateCreated:
		case e.State == hypervisor.StateRunning && s.told.pausing:
			// It is of before the pause, for nobody but Resume ends that, and waits.
		default:
			s.told.pausing = false
			v.setState(e.State, e.Reason)
		}
		for _, d := range e.Detail {
			n, err := strconv.ParseInt(d.Value, 10, 64)
			switch {
			case err != nil:
			case e.Kind == hypervisor.EventMemory && d.Key == "actual":
				s.told.memory++
				v.status.MemoryActual, v.status.MemoryErr = n, nil
			case e.Kind == hypervisor.EventSnapshot && v.status.Busy == "snapshot": // else it is over
				v.status.Progress.take(d.Key, n)
			}
		}
	})
	v.emit(events.Event{Time: e.Time, Kind: string(e.Kind), State: e.State, Reason: e.Reason, Detail: e.Detail})
}

func (p *Progress) take(key string, n int64) {
	switch key {
	case "done":
		p.Done = n
	case "total":
		p.Total = n
	case "rate":
		p.Rate = n
	}
}
