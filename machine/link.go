package machine

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
	"vmfs/machine/events"
)

const (
	retryFirst = 50 * time.Millisecond
	retryMost  = 5 * time.Second
	// startGrace is how long a VMM that may just have been spawned by a server that
	// was killed has to come to its socket.
	startGrace = time.Second
)

// link connects to the VMM, and goes on trying while its process lives. It
// returns false when the VMM is gone, or ctx has ended.
func (s *session) link(ctx context.Context, exited <-chan process.Exit) (process.Exit, bool) {
	v := s.v
	began := time.Now()
	var told bool
	for wait := retryFirst; ; wait = min(2*wait, retryMost) {
		c, err := s.tryConnect(ctx, exited)
		if err == nil {
			if s.accept(ctx, c) {
				return process.Exit{}, true
			}
			err = hypervisor.ErrHypervisorNotRunning
		}
		var foreign *foreignError
		switch isForeign := errors.As(err, &foreign); {
		case ctx.Err() != nil:
			return process.Exit{}, false
		case exited == nil && !s.proc.IsZero() && !s.proc.Alive():
			return process.Exit{}, false
		case s.proc.IsZero() && (isForeign || notRunning(err) && (s.from != phaseStarting && s.from != phaseRestoring || time.Since(began) > startGrace)):
			if isForeign {
				v.RecordError("adopt", v.wrap("adopt", err))
			}
			return process.Exit{}, false
		case s.proc.IsZero() && notRunning(err):
			wait = retryFirst
		case !s.proc.IsZero() && !s.proc.Alive():
			// Its end is about to be told.
		case !told:
			// It lives and does not answer: that is told once.
			told = true
			v.host.log.Warn("the VMM does not answer yet", "vm", v.name, "pid", s.proc.PID, "err", err)
			v.update(func() { v.setState(v.status.State, "not-answering") })
			v.emit(events.Event{Kind: events.KindDisconnected, Detail: []hypervisor.Detail{{Key: "error", Value: err.Error()}}})
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case exit := <-exited:
			timer.Stop()
			return exit, false
		case <-ctx.Done():
			timer.Stop()
			return process.Exit{}, false
		}
	}
}

// tryConnect is connect, given up when the process ends.
func (s *session) tryConnect(ctx context.Context, exited <-chan process.Exit) (contact, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if !s.proc.IsZero() && !s.proc.Alive() {
		return contact{}, hypervisor.ErrHypervisorNotRunning
	}
	c, err := s.v.connect(ctx, s.typ, s.socket, s.v.UUID())
	if err != nil {
		return contact{}, err
	}
	if !s.proc.IsZero() && c.id.PID != 0 && c.id.PID != s.proc.PID {
		hypervisor.CloseHandle(c.hv)
		return contact{}, &foreignError{s.socket, c.id}
	}
	return c, nil
}

// accept takes the VMM that answered for the session's, after whatever a killed
// server left undone. It returns false where the VMM had to be ended.
func (s *session) accept(ctx context.Context, c contact) bool {
	v := s.v
	if s.proc.IsZero() && c.id.PID != 0 {
		p, err := process.Find(c.id.PID)
		if err != nil {
			hypervisor.CloseHandle(c.hv)
			return false
		}
		s.proc = p
	}
	if s.from == phaseStarting && c.info.State == hypervisor.StateCreated {
		// It was killed between spawning the VMM and letting the guest run.
		rctx, cancel := context.WithTimeout(ctx, v.host.opts.Timeouts.Verb)
		err := c.hv.Resume(rctx)
		if err == nil {
			var info *hypervisor.VMInfo
			if info, err = c.hv.GetVMInfo(rctx); err == nil {
				c.info = *info
			}
		}
		cancel()
		if err != nil {
			v.RecordError("adopt", v.wrap("adopt", fmt.Errorf("the start that a killed server began cannot be finished: %w", err)))
		}
	}
	if s.from == phaseRestoring && c.info.State != hypervisor.StatePaused {
		// A guest whose memory is not all there cannot be gone on with.
		v.RecordError("adopt", v.wrap("adopt", errors.New("the restore that a killed server began was not finished: the VMM was ended")))
		s.setReason("restore-interrupted")
		s.discard(ctx, c.hv)
		return false
	}
	kind, adopting := events.KindReconnected, s.from != ""
	if adopting {
		kind = events.KindAdopted
	}
	if adopting && (s.from != phaseRunning || v.recordedPID() != s.proc.PID) {
		if err := v.saveRecord(s.running(time.Now())); err != nil {
			v.host.log.Error("record not written", "vm", v.name, "err", err)
		}
	}
	s.from = ""
	caps := c.hv.Capabilities()
	v.host.backends.learn(s.typ, caps)
	v.update(func() {
		s.hv = c.hv
		close(s.linked)
		v.caps = caps
		v.status.PID = s.proc.PID
		s.takeInfo(c.info, s.told)
	})
	v.emit(events.Event{Kind: kind, State: c.info.State, Reason: c.info.Reason, Detail: s.pidDetail()})
	s.first.Do(func() { close(s.heard) })
	return true
}

func (s *session) pidDetail() []hypervisor.Detail {
	d := []hypervisor.Detail{{Key: "hypervisor", Value: string(s.typ)}}
	if s.proc.PID != 0 {
		d = append(d, hypervisor.Detail{Key: "pid", Value: strconv.Itoa(s.proc.PID)})
	}
	return d
}

func (v *VM) recordedPID() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.rec.Process == nil {
		return 0
	}
	return v.rec.Process.PID
}

// running changes a record to that of a VM whose VMM runs.
func (s *session) running(started time.Time) func(*record) {
	return func(r *record) {
		r.Phase, r.Ran, r.Backend, r.Socket = phaseRunning, true, s.typ, s.socket
		r.Process = nil
		if p := s.proc; !p.IsZero() {
			r.Process = &p
		}
		if r.Started.IsZero() {
			r.Started = started
		}
	}
}
