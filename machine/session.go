package machine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
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

	// Guarded by v.mu:
	hv      hypervisor.Hypervisor // nil while there is no connection
	linked  chan struct{}         // closed when hv is set; replaced when it is lost
	console *consoleConn          // nil while there is none
	reason  string                // why the VMM will end, once that is known
	ending  bool                  // the guest has ended and the VMM is being cleared away
	taken   uint64                // counts the events that were taken
}

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
		v.host.log.Warn("connection to the VMM lost", "vm", v.name)
		v.emit(Record{Kind: KindUnheard})
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
		case !told:
			// It lives and does not answer: that is told once.
			told = true
			v.host.log.Warn("the VMM does not answer yet", "vm", v.name, "pid", s.proc.PID, "err", err)
			v.update(func() { v.setState(v.status.State, "not-answering") })
			v.emit(Record{Kind: KindUnheard, Detail: []hypervisor.Detail{{Key: "error", Value: err.Error()}}})
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
	kind, adopting := KindHeard, s.from != ""
	if adopting {
		kind = KindAdopted
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
		s.takeInfo(c.info)
	})
	v.emit(Record{Kind: kind, State: c.info.State, Reason: c.info.Reason, Detail: s.pidDetail()})
	s.first.Do(func() { close(s.heard) })
	return true
}

func (s *session) pidDetail() []hypervisor.Detail {
	d := []hypervisor.Detail{{Key: "backend", Value: string(s.typ)}}
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

// takeInfo sets the state from what the VMM said. The caller holds v.mu.
func (s *session) takeInfo(info hypervisor.VMInfo) {
	v := s.v
	state := info.State
	if state == hypervisor.StateCreated {
		state = hypervisor.StatePaused // it has a VMM, and its vCPUs stand still
	}
	v.setState(state, info.Reason)
	if info.MemoryActualSize != nil {
		v.status.MemoryActual = *info.MemoryActualSize
	}
	if state == hypervisor.StateShutdown {
		s.guestEnded(info.Reason)
	}
}

// refresh asks the VMM how it is, for where no event tells. An event that came
// meanwhile knows better.
func (s *session) refresh(ctx context.Context, hv hypervisor.Hypervisor) error {
	ctx, cancel := context.WithTimeout(ctx, s.v.host.opts.Timeouts.Verb)
	defer cancel()
	s.v.mu.Lock()
	taken := s.taken
	s.v.mu.Unlock()
	info, err := hv.GetVMInfo(ctx)
	if err != nil {
		return err
	}
	s.v.update(func() {
		if s.hv == hv && s.taken == taken {
			s.takeInfo(*info)
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
	pump.Go(func() { s.pump(pumpCtx, hv) })
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
		s.taken++
		if e.State == hypervisor.StateShutdown {
			s.guestEnded(e.Reason)
		}
		if e.State != "" && e.State != hypervisor.StateCreated {
			v.setState(e.State, e.Reason)
		}
		if e.Kind == hypervisor.EventMemory {
			for _, d := range e.Detail {
				if n, err := strconv.ParseInt(d.Value, 10, 64); d.Key == "actual" && err == nil {
					v.status.MemoryActual = n
				}
			}
		}
	})
	v.emit(Record{Time: e.Time, Kind: string(e.Kind), State: e.State, Reason: e.Reason, Detail: e.Detail})
}

// guestEnded sees to it that the VMM ends after its guest. The caller holds v.mu.
func (s *session) guestEnded(reason string) {
	if s.ending {
		return
	}
	s.ending = true
	if s.reason == "" {
		s.reason = cmp.Or(reason, "guest-ended")
	}
	s.v.host.spawn(func() {
		// Most end by themselves at once.
		if !s.within(500*time.Millisecond) && s.ctx.Err() == nil {
			s.stop(s.ctx)
		}
	})
}

// within waits for the session's end, the Host's, or d, and tells whether it was
// the first.
func (s *session) within(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-s.gone:
		return true
	case <-timer.C:
	case <-s.ctx.Done():
	}
	return false
}

// stop ends the VMM in an orderly way, or by force where that takes too long.
func (s *session) stop(ctx context.Context) error {
	v := s.v
	octx, cancel := context.WithTimeout(ctx, v.host.opts.Timeouts.Stop)
	defer cancel()
	hv, err := s.handle(octx)
	if err == nil {
		err = hv.Shutdown(octx)
	}
	if err == nil || notRunning(err) {
		// It has taken the order, or ends already; it may have disks to flush.
		select {
		case <-s.gone:
			return nil
		case <-octx.Done():
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	s.setReasonForced()
	v.host.log.Warn("the VMM does not end in an orderly way and is killed", "vm", v.name, "pid", s.proc.PID, "err", err)
	return s.kill(ctx)
}

func (s *session) setReasonForced() {
	s.v.mu.Lock()
	defer s.v.mu.Unlock()
	if s.reason == "" || s.reason == "stopped" {
		s.reason = "stopped-by-force"
	}
}

// setReason says why the VMM is about to end.
func (s *session) setReason(reason string) {
	s.v.mu.Lock()
	defer s.v.mu.Unlock()
	if !s.ending {
		s.reason = reason
	}
}

// kill ends the VMM at once and waits until it is gone.
func (s *session) kill(ctx context.Context) error {
	select {
	case <-s.gone:
		return nil
	default:
	}
	switch {
	case !s.proc.IsZero():
		if err := s.proc.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, process.ErrEnded) {
			return err
		}
	default:
		for last := hypervisor.Hypervisor(nil); ; {
			hv, err := s.handle(ctx)
			if err == nil {
				err = kill(ctx, hv)
			}
			if errors.Is(err, net.ErrClosed) && hv != last {
				last = hv
				continue // that handle was given up: there will be another, or an end
			}
			if err != nil && !notRunning(err) {
				return err
			}
			break
		}
	}
	select {
	case <-s.gone:
		return nil
	case <-ctx.Done():
	}
	select {
	case <-s.gone:
		return nil // both at once, as when two kill it
	default:
		return fmt.Errorf("the VMM was killed and has not ended yet: %w", ctx.Err())
	}
}

// kill ends a VMM that is no process.
func kill(ctx context.Context, hv hypervisor.Hypervisor) error {
	if k, ok := hv.(hypervisor.Killer); ok {
		return k.Kill(ctx)
	}
	return hv.Shutdown(ctx)
}

// discard ends a VMM that was never the session's for good.
func (s *session) discard(ctx context.Context, hv hypervisor.Hypervisor) {
	defer hypervisor.CloseHandle(hv)
	ctx, cancel := context.WithTimeout(ctx, s.v.host.opts.Timeouts.Verb)
	defer cancel()
	if !s.proc.IsZero() {
		if err := s.proc.Signal(syscall.SIGKILL); err == nil {
			s.proc.Wait(ctx)
		}
		return
	}
	kill(ctx, hv)
}

// unlink gives up the connection.
func (s *session) unlink() {
	hv := s.hv
	s.v.update(func() {
		s.hv = nil
		s.linked = make(chan struct{})
	})
	hypervisor.CloseHandle(hv)
}

// end makes the VM one without a VMM.
func (s *session) end(exit process.Exit) {
	v := s.v
	defer close(s.gone)
	v.mu.Lock()
	reason, adopting := s.reason, s.from
	v.mu.Unlock()
	var detail []hypervisor.Detail
	if s.proc.PID != 0 {
		detail = append(detail, hypervisor.Detail{Key: "pid", Value: strconv.Itoa(s.proc.PID)})
	}
	if how := exit.String(); how != "" {
		detail = append(detail, hypervisor.Detail{Key: "status", Value: how})
	}
	text := "the VMM ended"
	switch {
	case reason != "":
		text = reason
	case adopting != "":
		reason = "lost"
		text = "the VMM ended while no server ran"
		if adopting != phaseRunning {
			text = "the server was killed while it started the VM"
		}
	default:
		reason = "vmm-died"
		text = "the VMM ended unexpectedly"
		if how := exit.String(); how != "" {
			text += ": " + how
		}
	}
	if reason == "lost" || reason == "vmm-died" {
		if last := lastLines(v.LogPath(), 3); last != "" {
			text += "; its last words: " + last
		}
		detail = append(detail, hypervisor.Detail{Key: "text", Value: text})
	}
	if !s.proc.IsZero() {
		clearSockets(filepath.Dir(s.socket))
	}
	now := time.Now()
	if err := v.saveRecord(func(r *record) {
		r.Phase, r.Process, r.Socket = phaseDown, nil, ""
		r.LastExit, r.ExitTime = text, now
	}); err != nil {
		// Its successor finds the process dead and comes to the same end.
		v.host.log.Error("record not written", "vm", v.name, "err", err)
	}
	state := hypervisor.StateShutdown
	v.update(func() {
		if !v.rec.Ran {
			state = hypervisor.StateCreated
		}
		v.setState(state, reason)
		v.status.PID, v.status.Started, v.status.MemoryActual = 0, time.Time{}, 0
		v.status.LastExit, v.status.ExitTime = text, now
		v.status.Backend = v.cfg.Type()
		v.status.MemoryTarget = v.cfg.VMConfig().MemoryBytes
	})
	v.host.log.Info("VMM ended", "vm", v.name, "reason", reason, "text", text)
	v.emit(Record{Kind: KindExited, State: state, Reason: reason, Detail: detail})
	v.update(func() { v.session = nil })
}

// clearSockets removes the sockets that a dead VMM left in its directory.
func clearSockets(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.Type() == os.ModeSocket {
			os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}
