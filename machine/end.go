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
	"syscall"
	"time"

	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
	"vmfs/internal/unixsock"
	"vmfs/machine/events"
)

// guestEnded sees to it that the VMM ends after its guest. The caller holds v.mu.
func (s *session) guestEnded(reason string) {
	if s.stage == leaving {
		return
	}
	s.stage = leaving
	if s.reason == "" {
		s.reason = cmp.Or(reason, "guest-ended")
	}
	s.v.host.spawn(func() {
		// Most end by themselves at once.
		if !s.endsWithin(500*time.Millisecond) && s.v.host.ctx.Err() == nil {
			s.stop(s.v.host.ctx)
		}
	})
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
		if s.ended(octx) == nil {
			return nil
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	s.setReasonForced()
	v.host.log.Warn("the VMM did not end when asked: killing it", "vm", v.name, "pid", s.process().PID, "err", err)
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
	if s.stage != leaving {
		s.reason = reason
	}
}

// kill ends the VMM at once and waits until it is gone.
func (s *session) kill(ctx context.Context) error {
	switch proc := s.process(); {
	case !proc.IsZero():
		if err := proc.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, process.ErrEnded) {
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
	if err := s.ended(ctx); err != nil {
		return fmt.Errorf("the VMM was killed and has not ended yet: %w", err)
	}
	return nil
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

// end makes the VM one without a VMM.
func (s *session) end() {
	v := s.v
	v.mu.Lock()
	reason, adopting, how := s.reason, s.from, s.exitHow
	v.mu.Unlock()
	if how == "" {
		how = s.exit.String()
	}
	var detail []hypervisor.Detail
	if s.proc.PID != 0 {
		detail = append(detail, hypervisor.Detail{Key: "pid", Value: strconv.Itoa(s.proc.PID)})
	}
	if how != "" {
		detail = append(detail, hypervisor.Detail{Key: "status", Value: how})
	}
	text := "the VMM ended"
	switch {
	case reason != "" && reason != hypervisor.ReasonVMMDied:
		text = reason
	case adopting != "":
		reason = "lost"
		text = "the VMM ended while no server ran"
		if adopting != phaseRunning {
			text = "the server was killed while it started the VM"
		}
	default:
		reason = hypervisor.ReasonVMMDied
		text = "the VMM ended unexpectedly"
		if how != "" {
			text += ": " + how
		}
	}
	if reason == "lost" || reason == hypervisor.ReasonVMMDied {
		if last := lastLines(v.LogPath(), 3); last != "" {
			text += "; its last output: " + last
		}
		detail = append(detail, hypervisor.Detail{Key: "text", Value: text})
	}
	// Without a process somebody else may serve them.
	if !s.proc.IsZero() || unserved(s.socket) {
		clearSockets(filepath.Dir(s.socket))
	}
	now := time.Now()
	// Without it the next server finds the process dead and comes to the same end.
	v.tryRecord(func(r *record) {
		r.Phase, r.Process, r.Socket = phaseDown, nil, ""
		r.LastExit, r.ExitTime = text, now
	})
	state := hypervisor.StateShutdown
	v.update(func() {
		if !v.rec.Ran {
			state = hypervisor.StateCreated
		}
		v.setState(state, reason)
		v.status.PID, v.status.Started = 0, time.Time{}
		v.status.MemoryActual, v.status.MemoryErr = 0, nil
		v.status.LastExit, v.status.ExitTime = text, now
		v.status.Backend = v.cfg.Type()
		v.status.MemoryTarget = v.cfg.VMConfig().MemoryBytes
	})
	v.host.log.Info("VMM ended", "vm", v.name, "reason", reason, "text", text)
	v.emit(events.Event{Kind: events.KindExited, State: state, Reason: reason, Detail: detail})
	v.update(func() { v.session, s.stage = nil, over })
}

// unserved tells whether no process has a socket. A server that was killed before
// it could start the VMM leaves the VMM's so.
func unserved(socket string) bool {
	served, err := unixsock.Served(socket)
	return err == nil && !served
}

// clearSockets removes the sockets that a dead VMM left in its directory, but for
// those that somebody serves: what belongs to the VMM may end a moment after it.
func clearSockets(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if e.Type() == os.ModeSocket && unserved(path) {
			os.Remove(path)
		}
	}
}
