package machine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
	"vmfs/machine/console"
	"vmfs/machine/events"
)

// A session follows one VMM from the moment it is known to when it is gone: how it
// connects is in connect.go, how it follows in follow.go, how it ends in end.go, and
// how the sessions of an earlier server are begun again in adopt.go.
//
// Its run goroutine is the only one that takes the VMM's events and changes the VM's
// state by them; it connects, and connects again when the connection is
// lost, for as long as the VMM's process lives. When that has ended, or for a VMM
// that is no process when nobody answers any more, it ends the session: the
// VM is shutdown and its record says so.
type session struct {
	v      *VM
	typ    hypervisor.Type
	socket string
	from   phase // the record's phase when the session was begun by adoption, else ""
	input  *console.Input

	alive   context.Context // ends with the VMM's process, by errExited, and with the Host
	died    context.CancelCauseFunc
	watched bool           // somebody waits for the end of the process
	exit    process.Exit   // how it ended; set before alive ends by errExited
	helper  sync.WaitGroup // the goroutine that watches

	// Guarded by v.mu; changes are made in VM.update:
	stage   stage
	proc    process.Process       // zero where the VMM is no process of its own; set by run, which reads it unlocked
	hv      hypervisor.Hypervisor // nil while there is no connection
	reason  string                // why the VMM will end, once that is known
	exitHow string                // how its process ended, as its back end told
	told    telling
}

// A stage is how far a session has come.
type stage int

const (
	searching    stage = iota // no VMM has answered yet
	connected                 // one answers
	disconnected              // it did, and the connection was lost
	leaving                   // the guest has ended, and the VMM is being cleared away
	over                      // there is no VMM any more
)

// telling is what events have told: of the state and of the memory's size each knows
// better than an answer that was asked for before it, of that and of nothing else.
type telling struct {
	state, memory uint64 // count the events
	pausing       bool   // the VMM has paused the VM, and the event of it has not come
}

var errExited = errors.New("the VMM's process has ended")

// newSession prepares a session; hv is nil where there is no connection yet. The
// caller sets it as the VM's and calls begin.
func (v *VM) newSession(t hypervisor.Type, proc process.Process, hv hypervisor.Hypervisor) *session {
	s := &session{
		v:      v,
		typ:    t,
		socket: v.socketPath(t),
		proc:   proc,
		input:  console.NewInput(v.console, v.host.log.With("vm", v.name), v.host.opts.Timeouts.Verb),
		hv:     hv,
	}
	s.alive, s.died = context.WithCancelCause(v.host.ctx)
	if hv != nil {
		s.stage = connected
	}
	return s
}

// process returns the VMM's process.
func (s *session) process() process.Process {
	s.v.mu.Lock()
	defer s.v.mu.Unlock()
	return s.proc
}

// begin follows the VMM from now on.
func (s *session) begin() { s.v.host.spawn(s.run) }

func (s *session) run() {
	v := s.v
	defer s.input.End()
	defer s.helper.Wait()
	defer s.died(nil)
	s.watch()
	for s.hv != nil || s.link() {
		s.follow(s.hv)
		s.unlink()
		if s.alive.Err() != nil {
			break
		}
		if v.State() != hypervisor.StateShutdown { // else it is on its way out
			v.host.log.Warn("the connection to the VMM was lost", "vm", v.name)
			v.emit(events.Event{Kind: events.KindDisconnected})
		}
	}
	if v.host.ctx.Err() == nil {
		s.end()
	}
}

// watch waits for the end of the process, once it is known.
func (s *session) watch() {
	if s.watched || s.proc.IsZero() {
		return
	}
	s.watched = true
	s.helper.Go(func() {
		exit, err := s.proc.WaitExit(s.alive)
		switch {
		case s.alive.Err() != nil:
		case err != nil:
			s.v.host.log.Error("cannot wait for the VMM's process", "vm", s.v.name, "err", err)
		default:
			s.exit = exit
			s.died(errExited)
		}
	})
}

// reached waits until the session is in a stage that pred wants.
func (s *session) reached(ctx context.Context, pred func(stage) bool) error {
	return s.v.until(ctx, func() bool {
		s.v.mu.Lock()
		defer s.v.mu.Unlock()
		return pred(s.stage)
	})
}

// ended waits until there is no VMM any more.
func (s *session) ended(ctx context.Context) error {
	return s.reached(ctx, func(at stage) bool { return at == over })
}

// endsWithin waits for that no longer than d.
func (s *session) endsWithin(d time.Duration) bool {
	ctx, cancel := context.WithTimeout(s.v.host.ctx, d)
	defer cancel()
	return s.ended(ctx) == nil
}

// settled waits until the VMM has answered or is known to be gone.
func (s *session) settled(ctx context.Context) {
	s.reached(ctx, func(at stage) bool { return at != searching })
}

// handle returns the handle on the VMM, for which it waits where the connection
// is lost or the VMM has not answered yet.
func (s *session) handle(ctx context.Context) (hv hypervisor.Hypervisor, err error) {
	err = s.reached(ctx, func(at stage) bool {
		hv = s.hv
		return hv != nil || at == over
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("the VMM does not answer on %s: %w", s.socket, err)
	case hv == nil:
		return nil, hypervisor.ErrHypervisorNotRunning
	}
	return hv, nil
}

// unlink gives up the connection.
func (s *session) unlink() {
	hv := s.hv
	s.v.update(func() {
		s.hv = nil
		if s.stage == connected {
			s.stage = disconnected
		}
	})
	hypervisor.CloseHandle(hv)
}
