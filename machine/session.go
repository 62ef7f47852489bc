package machine

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
	"vmfs/machine/console"
	"vmfs/machine/events"
)

// A session follows one VMM from the moment it is known to when it is gone. Its
// run goroutine is the only one that takes the VMM's events and changes the VM's
// state by them; it connects, and connects again when the connection is
// lost, for as long as the VMM's process lives. When that has ended, or for a VMM
// that is no process when nobody answers any more, it ends the session: the
// VM is shutdown and its record says so.
type session struct {
	v      *VM
	typ    hypervisor.Type
	socket string
	proc   process.Process // zero where the VMM is no process of its own
	from   phase           // the record's phase when the session was begun by adoption, else ""

	ctx    context.Context // ends with the Host
	gone   chan struct{}   // closed when the session is over because the VMM is
	heard  chan struct{}   // closed when the VMM first answered, or the session ended
	first  sync.Once       // closes heard
	helper sync.WaitGroup  // what the session has begun beside run
	input  *console.Input

	// Guarded by v.mu:
	hv      hypervisor.Hypervisor // nil while there is no connection
	linked  chan struct{}         // closed when hv is set; replaced when it is lost
	reason  string                // why the VMM will end, once that is known
	exitHow string                // how its process ended, as its back end told
	ending  bool                  // the guest has ended and the VMM is being cleared away
	told    telling               // counts what events have told
	pausing bool                  // the VMM has paused the VM, and the event of it has not come
}

// telling counts the events that told of a state and those that told of the
// memory's size: each knows better than an answer that was asked for before it,
// of that and of nothing else.
type telling struct{ state, memory uint64 }

// newSession prepares a session; hv is nil where there is no connection yet. The
// caller sets it as the VM's and calls begin.
func (v *VM) newSession(t hypervisor.Type, proc process.Process, hv hypervisor.Hypervisor) *session {
	s := &session{
		v:      v,
		typ:    t,
		socket: v.socketPath(t),
		proc:   proc,
		ctx:    v.host.ctx,
		gone:   make(chan struct{}),
		heard:  make(chan struct{}),
		linked: make(chan struct{}),
		input:  console.NewInput(v.console, v.host.log.With("vm", v.name), v.host.opts.Timeouts.Verb),
		hv:     hv,
	}
	if hv != nil {
		close(s.linked)
		s.first.Do(func() { close(s.heard) })
	}
	return s
}

// begin follows the VMM from now on.
func (s *session) begin() { s.v.host.spawn(s.run) }

// handle returns the handle on the VMM, for which it waits where the connection
// is lost or the VMM has not answered yet.
func (s *session) handle(ctx context.Context) (hypervisor.Hypervisor, error) {
	for {
		s.v.mu.Lock()
		hv, linked := s.hv, s.linked
		s.v.mu.Unlock()
		if hv != nil {
			return hv, nil
		}
		select {
		case <-linked:
		case <-s.gone:
			return nil, hypervisor.ErrHypervisorNotRunning
		case <-ctx.Done():
			return nil, fmt.Errorf("the VMM does not answer on %s: %w", s.socket, ctx.Err())
		}
	}
}

func (s *session) run() {
	v := s.v
	defer s.input.End()
	defer s.helper.Wait()
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	defer s.first.Do(func() { close(s.heard) })

	var exited chan process.Exit
	if !s.proc.IsZero() {
		exited = s.awaitExit(ctx)
	}
	for {
		if s.hv == nil {
			exit, ok := s.link(ctx, exited)
			if !ok {
				if s.ctx.Err() == nil {
					s.end(exit)
				}
				return
			}
			if exited == nil && !s.proc.IsZero() {
				exited = s.awaitExit(ctx)
			}
		}
		exit, over := s.follow(ctx, exited)
		s.unlink()
		if s.ctx.Err() != nil {
			return
		}
		if over {
			s.end(exit)
			return
		}
		if v.State() == hypervisor.StateShutdown {
			continue // the VMM is on its way out
		}
		v.host.log.Warn("connection to the VMM lost", "vm", v.name)
		v.emit(events.Event{Kind: events.KindDisconnected})
	}
}

// awaitExit waits for the end of the process and tells it once.
func (s *session) awaitExit(ctx context.Context) chan process.Exit {
	exited := make(chan process.Exit, 1)
	s.helper.Go(func() {
		exit, err := s.proc.WaitExit(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			s.v.host.log.Error("the VMM's process cannot be waited for", "vm", s.v.name, "err", err)
			return
		}
		exited <- exit
	})
	return exited
}

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
	s.pausing = false
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

// follow takes the VMM's events until the VMM is gone, which is true, or the
// connection is, which is false.
func (s *session) follow(ctx context.Context, exited <-chan process.Exit) (process.Exit, bool) {
	hv := s.hv
	pumpCtx, stopPump := context.WithCancel(ctx)
	var pump sync.WaitGroup
	pump.Go(func() { s.input.Run(pumpCtx, hv) })
	defer pump.Wait()
	defer stopPump()

	var events <-chan hypervisor.Event
	if es, ok := hv.(hypervisor.EventSource); ok {
		events = es.Events()
	}
	for {
		select {
		case e, ok := <-events:
			if !ok {
				return s.lostEvents(ctx, exited)
			}
			s.take(e)
			if e.Kind == hypervisor.EventLost {
				// Some may have told of another state. One that does not answer
				// tells by its next event, or by its end.
				_ = s.refresh(ctx, hv)
			}
		case exit := <-exited:
			s.drain(events)
			return exit, true
		case <-ctx.Done():
			return process.Exit{}, false
		}
	}
}

// lostEvents finds out, when the events have ended, whether the VMM has.
func (s *session) lostEvents(ctx context.Context, exited <-chan process.Exit) (process.Exit, bool) {
	if exited == nil {
		return process.Exit{}, false // link finds nobody, if nobody is there
	}
	// A VMM closes its socket a moment before its process is gone.
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	select {
	case exit := <-exited:
		return exit, true
	case <-timer.C:
	case <-ctx.Done():
	}
	return process.Exit{}, false
}

// drain takes what events there are from a VMM that is gone.
func (s *session) drain(events <-chan hypervisor.Event) {
	timer := time.NewTimer(2 * time.Second)
	defer timer.Stop()
	for events != nil {
		select {
		case e, ok := <-events:
			if !ok {
				return
			}
			s.take(e)
		case <-timer.C:
			return
		case <-s.ctx.Done():
			return
		}
	}
}

// take makes an event of the VMM's one of the VM's.
func (s *session) take(e hypervisor.Event) {
	v := s.v
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
		case e.State == hypervisor.StateRunning && s.pausing:
			// It is of before the pause, for nobody but Resume ends that, and waits.
		default:
			s.pausing = false
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
