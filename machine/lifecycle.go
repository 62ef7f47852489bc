package machine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"vmfs/backends/hypervisor"
	"vmfs/machine/config"
	"vmfs/machine/events"
)

// live runs a verb that asks a VMM.
func (v *VM) live(ctx context.Context, verb string, timeout time.Duration, f func(context.Context, *session) error) error {
	return v.run(ctx, verb, timeout, func(ctx context.Context) error {
		s := v.liveSession()
		if s == nil {
			return hypervisor.ErrHypervisorNotRunning
		}
		return lostHandle(f(ctx, s))
	})
}

// lostHandle makes the error of a handle that was given up under a verb one that
// says why: the VMM has ended meanwhile, or its connection has.
func lostHandle(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("the connection to the VMM was lost: %w", hypervisor.ErrHypervisorNotRunning)
	}
	return err
}

// liveSession returns the session of a VM that runs or is paused. That of a VM
// whose guest has ended, and whose VMM is on its way out, takes no orders.
func (v *VM) liveSession() *session {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !slices.Contains(inLive, v.status.State) {
		return nil
	}
	return v.session
}

// ask runs a verb that is one order to a VMM.
func (v *VM) ask(ctx context.Context, verb string, order func(context.Context, *session, hypervisor.Hypervisor) error) error {
	return v.live(ctx, verb, v.host.opts.Timeouts.Verb, func(ctx context.Context, s *session) error {
		hv, err := s.handle(ctx)
		if err != nil {
			return err
		}
		return order(ctx, s, hv)
	})
}

// Pause stops the virtual CPUs. They stand still when the VMM has answered, and
// the state says so at once: the event, which may know a reason, comes when it
// comes.
func (v *VM) Pause(ctx context.Context) error {
	return v.ask(ctx, "pause", func(ctx context.Context, s *session, hv hypervisor.Hypervisor) error {
		if err := hv.Pause(ctx); err != nil {
			return err
		}
		v.update(func() {
			if v.session == s && v.status.State == hypervisor.StateRunning {
				s.told.state++
				_, s.told.pausing = hv.(hypervisor.EventSource)
				v.setState(hypervisor.StatePaused, "")
			}
		})
		return nil
	})
}

// Resume lets the virtual CPUs go on. It returns when the VM's cached state says
// so too: a guest that slept may take its time to wake, and the event of a pause
// before it must not come after it.
func (v *VM) Resume(ctx context.Context) error {
	return v.ask(ctx, "resume", func(ctx context.Context, s *session, hv hypervisor.Hypervisor) error {
		if err := hv.Resume(ctx); err != nil {
			return err
		}
		if _, ok := hv.(hypervisor.EventSource); ok {
			// The event is on its way, if it has not come.
			ectx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			if _, err := v.Watch(ectx, func(s Status) bool { return s.State != hypervisor.StatePaused }); err == nil {
				return nil
			}
		}
		return s.refresh(ctx, hv)
	})
}

// PowerOff asks the guest to shut down, and does not wait for it.
func (v *VM) PowerOff(ctx context.Context) error {
	return v.ask(ctx, "poweroff", func(ctx context.Context, _ *session, hv hypervisor.Hypervisor) error {
		return hv.DeleteVM(ctx)
	})
}

// Reset resets the VM as the button on a machine does.
func (v *VM) Reset(ctx context.Context) error {
	return v.ask(ctx, "reset", func(ctx context.Context, _ *session, hv hypervisor.Hypervisor) error {
		r, ok := hv.(hypervisor.Resetter)
		if !ok {
			return hypervisor.ErrNotSupported
		}
		return r.Reset(ctx)
	})
}

// InjectNMI sends the guest a non-maskable interrupt.
func (v *VM) InjectNMI(ctx context.Context) error {
	return v.ask(ctx, "nmi", func(ctx context.Context, _ *session, hv hypervisor.Hypervisor) error {
		n, ok := hv.(hypervisor.NMIInjector)
		if !ok {
			return hypervisor.ErrNotSupported
		}
		return n.InjectNMI(ctx)
	})
}

// Stop ends the VMM in an orderly way, whatever the guest does, and by force if
// it has not ended after Timeouts.Stop. It returns when the VMM is gone.
func (v *VM) Stop(ctx context.Context) error {
	t := v.host.opts.Timeouts
	return v.live(ctx, "stop", t.Stop+t.Verb, func(ctx context.Context, s *session) error {
		s.setReason("stopped")
		err := s.stop(ctx)
		if err != nil {
			s.setReason("")
		}
		return err
	})
}

// Kill ends the VMM at once, and any command under way with it; it returns when
// both are over. It needs no answer from the VMM.
func (v *VM) Kill(ctx context.Context) error {
	kctx, cancel := context.WithTimeout(ctx, v.host.opts.Timeouts.Verb)
	defer cancel()
	for {
		v.mu.Lock()
		s, busy := v.session, v.command != nil
		v.mu.Unlock()
		if busy {
			if err := v.killBusy(kctx, s); err != nil {
				return v.wrap("kill", err)
			}
			v.mu.Lock()
			again := v.session
			v.mu.Unlock()
			if again == nil || again == s {
				return nil
			}
			// A start was over before it could be ended.
		}
		err := v.live(ctx, "kill", v.host.opts.Timeouts.Verb, func(ctx context.Context, s *session) error {
			s.setReason("killed")
			return s.kill(ctx)
		})
		var late *BusyError
		if !errors.As(err, &late) || kctx.Err() != nil {
			return err
		}
	}
}

// killBusy ends the VMM and the command under way. The command may wait for a VMM
// that does not answer, so the VMM goes first; one that is only just being started
// goes with its command.
func (v *VM) killBusy(ctx context.Context, s *session) error {
	if s != nil {
		s.setReason("killed")
		if err := s.kill(ctx); err != nil {
			return err
		}
	}
	return v.interrupt(ctx, errKilled)
}

// ResizeMemory sets the guest's memory target in bytes. With wait above 0 it
// waits for that long until the guest has followed, and returns a
// *hypervisor.ResizeError, which is context.DeadlineExceeded, if it has not. For
// a VM that does not run it sets the memory that it starts with, in its
// configuration.
func (v *VM) ResizeMemory(ctx context.Context, bytes int64, wait time.Duration) error {
	return v.run(ctx, "memory", v.host.opts.Timeouts.Verb+max(wait, 0), func(ctx context.Context) error {
		if s := v.liveSession(); s != nil {
			return v.resizeLive(ctx, s, bytes, wait)
		}
		cfg, err := v.Config().Merge("memory=" + strconv.FormatInt(bytes, 10))
		if err != nil {
			return err
		}
		if len(config.Changed(v.Config(), cfg)) == 0 {
			return nil
		}
		if err := v.saveConfig(cfg); err != nil {
			return err
		}
		v.emit(events.Event{Kind: events.KindConfig, Detail: []hypervisor.Detail{{Key: "keys", Value: "memory"}}})
		return nil
	})
}

func (v *VM) resizeLive(ctx context.Context, s *session, bytes int64, wait time.Duration) error {
	if bytes <= 0 {
		return fmt.Errorf("memory cannot be %d bytes: %w", bytes, hypervisor.ErrInvalid)
	}
	hv, err := s.handle(ctx)
	if err != nil {
		return err
	}
	begun, within := time.Now(), ctx
	if wait > 0 {
		var cancel context.CancelFunc
		within, cancel = context.WithTimeout(ctx, wait)
		defer cancel()
	}
	if err := hv.ResizeMemory(within, bytes); err != nil {
		return lostHandle(err)
	}
	// From here on it is the target, whatever becomes of the wait.
	v.update(func() { v.status.MemoryTarget = bytes })
	v.tryRecord(func(r *record) { r.MemoryTarget = bytes })
	v.emit(events.Event{Kind: events.KindResize, Detail: []hypervisor.Detail{{Key: "target", Value: strconv.FormatInt(bytes, 10)}}})
	if wait > 0 {
		err = lostHandle(hv.ResizeMemoryAndWait(ctx, bytes, max(wait-time.Since(begun), 0)))
	}
	if rerr := s.refresh(ctx, hv); rerr != nil && err == nil && ctx.Err() == nil {
		v.host.log.Warn("cannot read the memory size", "vm", v.name, "err", rerr)
	}
	return err
}
