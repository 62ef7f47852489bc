package machine

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
	"vmfs/internal/wait"
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
// returns false when the VMM is gone, or the Host is closed.
func (s *session) link() bool {
	v := s.v
	began := time.Now()
	retry := wait.Backoff{First: retryFirst, Most: retryMost}
	for told := false; ; {
		c, err := s.tryConnect(s.alive)
		if err == nil {
			if s.accept(s.alive, c) {
				return true
			}
			err = hypervisor.ErrHypervisorNotRunning
		}
		var foreign *foreignError
		switch isForeign := errors.As(err, &foreign); {
		case s.alive.Err() != nil:
			return false
		case s.proc.IsZero() && isForeign:
			v.notAdopted(err)
			return false
		case s.proc.IsZero() && notRunning(err):
			if s.from != phaseStarting && s.from != phaseRestoring || time.Since(began) > startGrace {
				return false
			}
			retry.Reset()
		case !s.proc.IsZero() && !s.proc.Alive():
			// Its end is about to be told.
		case !told:
			// It lives and does not answer: that is told once.
			told = true
			v.host.log.Warn("the VMM does not answer yet", "vm", v.name, "pid", s.proc.PID, "err", err)
			v.update(func() { v.setState(v.status.State, "not-answering") })
			v.emit(events.Event{Kind: events.KindDisconnected, Detail: []hypervisor.Detail{{Key: "error", Value: err.Error()}}})
		}
		if retry.Wait(s.alive) != nil {
			return false
		}
	}
}

// notAdopted keeps why a VMM was not taken over as it was.
func (v *VM) notAdopted(err error) { v.RecordError("adopt", v.wrap("adopt", err)) }

// tryConnect is connect, for the process that the session is of.
func (s *session) tryConnect(ctx context.Context) (contact, error) {
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
		v.update(func() { s.proc = p })
		s.watch()
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
			v.notAdopted(fmt.Errorf("cannot finish the start that an earlier server began: %w", err))
		}
	}
	if s.from == phaseRestoring && c.info.State != hypervisor.StatePaused {
		// The guest's memory was not read whole: it must not run.
		v.notAdopted(errors.New("an earlier server was killed during the restore: its VMM was ended"))
		s.setReason("restore-interrupted")
		s.discard(ctx, c.hv)
		return false
	}
	kind, adopting := events.KindReconnected, s.from != ""
	if adopting {
		kind = events.KindAdopted
	}
	if adopting && (s.from != phaseRunning || v.recordedPID() != s.proc.PID) {
		v.tryRecord(s.running(time.Now()))
	}
	s.from = ""
	caps := c.hv.Capabilities()
	v.host.backends.learn(s.typ, caps)
	v.update(func() {
		s.hv = c.hv
		if s.stage != leaving {
			s.stage = connected
		}
		v.caps = caps
		v.status.PID = s.proc.PID
		s.takeInfo(c.info, s.told)
	})
	v.emit(events.Event{Kind: kind, State: c.info.State, Reason: c.info.Reason, Detail: s.pidDetail()})
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

// foreignError is the VMM of another VM that serves this VM's socket. It is not
// touched. It is a hypervisor.ErrBusy: the VM cannot be started beside it.
type foreignError struct {
	socket string
	id     hypervisor.Identity
}

func (e *foreignError) Error() string {
	pid := ""
	if e.id.PID != 0 {
		pid = ", pid " + strconv.Itoa(e.id.PID)
	}
	return fmt.Sprintf("%s is served by the VMM of another VM (name %q, uuid %q%s): end that VMM, or move its socket away", e.socket, e.id.Name, e.id.UUID, pid)
}

func (e *foreignError) Unwrap() error { return hypervisor.ErrBusy }

// newClient makes a handle on the VMM at the socket. A client factory takes no
// context; one that is still at it when ctx ends is left behind, and its
// handle closed.
func (h *Host) newClient(ctx context.Context, t hypervisor.Type, socket string) (hypervisor.Hypervisor, error) {
	type result struct {
		hv  hypervisor.Hypervisor
		err error
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	got := make(chan result)
	if !h.spawn(func() {
		hv, err := hypervisor.NewClient(t, socket)
		select {
		case got <- result{hv, err}:
		case <-ctx.Done():
			if err == nil {
				hypervisor.CloseHandle(hv)
			}
		}
	}) {
		return nil, ErrClosed
	}
	select {
	case r := <-got:
		return r.hv, r.err
	case <-ctx.Done():
		return nil, fmt.Errorf("connect to %s: %w", socket, ctx.Err())
	}
}

// contact is a VMM that answered.
type contact struct {
	hv   hypervisor.Hypervisor
	id   hypervisor.Identity // zero where it cannot tell
	info hypervisor.VMInfo
}

// connect makes a handle on the VMM at the socket, makes sure that it is the one
// of the VM with this uuid, and asks how it is. With an empty uuid the name alone
// counts.
func (v *VM) connect(ctx context.Context, t hypervisor.Type, socket, uuid string) (contact, error) {
	ctx, cancel := context.WithTimeout(ctx, v.host.opts.Timeouts.Verb)
	defer cancel()
	hv, err := v.host.newClient(ctx, t, socket)
	if err != nil {
		return contact{}, err
	}
	c := contact{hv: hv}
	fail := func(err error) (contact, error) {
		hypervisor.CloseHandle(hv)
		return contact{}, err
	}
	if i, ok := hv.(hypervisor.Identifier); ok {
		if c.id, err = i.Identify(ctx); err != nil {
			return fail(err)
		}
		if c.id.Name != v.name || uuid != "" && c.id.UUID != uuid {
			return fail(&foreignError{socket, c.id})
		}
	}
	info, err := hv.GetVMInfo(ctx)
	if err != nil {
		return fail(err)
	}
	c.info = *info
	return c, nil
}

func notRunning(err error) bool { return errors.Is(err, hypervisor.ErrHypervisorNotRunning) }
