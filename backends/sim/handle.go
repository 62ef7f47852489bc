package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"vmfs/backends/hypervisor"
	"vmfs/internal/queue"
)

// A Handle controls one VM, as a connection to its VMM would.
type Handle struct {
	vm     *VM
	events *queue.Queue[hypervisor.Event]
	closed bool // guarded by vm.mu
}

var (
	_ hypervisor.Hypervisor  = (*Handle)(nil)
	_ hypervisor.EventSource = (*Handle)(nil)
	_ hypervisor.Resetter    = (*Handle)(nil)
	_ hypervisor.NMIInjector = (*Handle)(nil)
	_ hypervisor.DiskGrower  = (*Handle)(nil)
	_ hypervisor.Console     = (*Handle)(nil)
	_ hypervisor.Identifier  = (*Handle)(nil)
	_ hypervisor.Killer      = (*Handle)(nil)
	_ hypervisor.VsockSource = (*Handle)(nil)
	_ io.Closer              = (*Handle)(nil)
)

// maxEvents bounds the events that wait for a consumer who does not receive.
const maxEvents = 4096

// newHandle makes a handle on a VM that lives. vm.mu is held.
func (vm *VM) newHandle() *Handle {
	h := &Handle{vm: vm, events: queue.NewSized(maxEvents, hypervisor.MaxEventBytes, hypervisor.Event.Size, hypervisor.LostEvents)}
	if vm.handles == nil {
		vm.handles = make(map[*Handle]struct{})
	}
	vm.handles[h] = struct{}{}
	return h
}

// VM returns the VM that h controls.
func (h *Handle) VM() *VM { return h.vm }

// Events returns the events since h was made.
func (h *Handle) Events() <-chan hypervisor.Event { return h.events.Chan() }

// Close gives h up. Its blocked calls return; a console stays open.
func (h *Handle) Close() error {
	h.vm.mu.Lock()
	if !h.closed {
		h.closed = true
		delete(h.vm.handles, h)
		h.vm.cond.Broadcast()
	}
	h.vm.mu.Unlock()
	h.events.Close(net.ErrClosed)
	return nil
}

// Capabilities tells what the VM can do.
func (h *Handle) Capabilities() hypervisor.Capabilities { return h.vm.set.caps }

// call does f for a verb, with vm.mu held, when the VM can, the VMM answers and
// no fault is in the way.
func (h *Handle) call(ctx context.Context, verb Verb, able bool, f func() error) error {
	h.vm.mu.Lock()
	defer h.vm.mu.Unlock()
	err := h.admit(ctx, verb, able)
	if err == nil {
		err = f()
	}
	if err != nil {
		return fmt.Errorf("sim: %s %s: %w", verb, h.vm.name(), err)
	}
	return nil
}

func (h *Handle) admit(ctx context.Context, verb Verb, able bool) error {
	if !able && !h.vm.gone {
		return hypervisor.ErrNotSupported
	}
	if err := h.wait(ctx, func() bool { return !h.vm.hangs(verb) }); err != nil {
		return err
	}
	return h.vm.meet(verb)
}

// wait waits until done says so. vm.mu is held, and released meanwhile.
func (h *Handle) wait(ctx context.Context, done func() bool) error {
	vm := h.vm
	var stop func() bool
	for {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case h.closed:
			return net.ErrClosed
		case vm.gone:
			return hypervisor.ErrHypervisorNotRunning
		case done():
			return nil
		}
		if stop == nil {
			stop = vm.wakeAt(ctx)
			defer stop()
		}
		vm.cond.Wait()
	}
}

// wakeAt wakes vm.cond when ctx ends.
func (vm *VM) wakeAt(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() {
		vm.mu.Lock()
		defer vm.mu.Unlock()
		vm.cond.Broadcast()
	})
}

// alive refuses what makes no sense once the guest of a lingering VMM has ended.
func (vm *VM) alive() error {
	if vm.state == hypervisor.StateShutdown {
		return fmt.Errorf("the guest has ended (%s); stop the VM: %w", vm.reason, hypervisor.ErrBusy)
	}
	return nil
}

// DeleteVM presses the power button.
func (h *Handle) DeleteVM(ctx context.Context) error {
	vm := h.vm
	return h.call(ctx, VerbPowerOff, true, func() error {
		if err := vm.alive(); err != nil {
			return err
		}
		vm.emit(hypervisor.Event{Kind: hypervisor.EventPowerdown})
		vm.powerButton()
		return nil
	})
}

// Shutdown ends the VMM.
func (h *Handle) Shutdown(ctx context.Context) error {
	vm := h.vm
	return h.call(ctx, VerbStop, true, func() error {
		vm.end(&hypervisor.Event{
			Kind: hypervisor.EventShutdown, State: hypervisor.StateShutdown, Reason: ReasonHostQuit,
		})
		return nil
	})
}

// Kill ends the VMM at once and without an event.
func (h *Handle) Kill(ctx context.Context) error {
	return h.call(ctx, VerbKill, true, func() error {
		h.vm.end(nil)
		return nil
	})
}

// GetVMInfo tells how the VM is.
func (h *Handle) GetVMInfo(ctx context.Context) (*hypervisor.VMInfo, error) {
	vm := h.vm
	var info hypervisor.VMInfo
	err := h.call(ctx, VerbInfo, true, func() error {
		actual := vm.actual
		info = hypervisor.VMInfo{State: vm.state, MemoryActualSize: &actual, Reason: vm.reason}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &info, nil
}

// Pause stops the guest. One that stands still for a reason of its own keeps it.
func (h *Handle) Pause(ctx context.Context) error {
	vm := h.vm
	return h.call(ctx, VerbPause, vm.set.caps.SupportsPause, func() error {
		if err := vm.alive(); err != nil {
			return err
		}
		if vm.state != hypervisor.StatePaused {
			vm.pause("")
		}
		return nil
	})
}

// Resume lets the guest go on, but not one that panicked.
func (h *Handle) Resume(ctx context.Context) error {
	vm := h.vm
	return h.call(ctx, VerbResume, vm.set.caps.SupportsPause, func() error {
		if err := vm.alive(); err != nil {
			return err
		}
		if vm.reason == ReasonPanicked {
			return fmt.Errorf("the guest has panicked; reset it first: %w", hypervisor.ErrBusy)
		}
		if vm.state != hypervisor.StateRunning {
			vm.resume()
		}
		return nil
	})
}

// Reset presses the reset button.
func (h *Handle) Reset(ctx context.Context) error {
	vm := h.vm
	return h.call(ctx, VerbReset, true, func() error {
		if err := vm.alive(); err != nil {
			return err
		}
		vm.reset(ReasonHostReset)
		return nil
	})
}

// InjectNMI presses the NMI button.
func (h *Handle) InjectNMI(ctx context.Context) error {
	vm := h.vm
	return h.call(ctx, VerbNMI, true, func() error {
		if err := vm.alive(); err != nil {
			return err
		}
		vm.after(0, func() { vm.print("\r\n" + NMILine + "\r\n") })
		return nil
	})
}

// ResizeMemory sets the memory target, which the guest follows.
func (h *Handle) ResizeMemory(ctx context.Context, bytes int64) error {
	vm := h.vm
	return h.call(ctx, VerbMemory, vm.set.caps.SupportsHotplugMemory, func() error {
		return vm.setTarget(bytes)
	})
}

// ResizeMemoryAndWait sets the memory target and waits until the guest has it.
func (h *Handle) ResizeMemoryAndWait(ctx context.Context, bytes int64, timeout time.Duration) error {
	vm := h.vm
	within, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	vm.mu.Lock()
	defer vm.mu.Unlock()
	target := vm.round(bytes)
	// The timeout is for the VMM too where it hangs, and else for the guest alone.
	admission := ctx
	if vm.hangs(VerbMemory) {
		admission = within
	}
	err := h.admit(admission, VerbMemory, vm.set.caps.SupportsHotplugMemory)
	if err == nil {
		if err = vm.setTarget(bytes); err == nil && vm.actual != target {
			err = h.wait(within, func() bool { return vm.actual == target })
		}
	}
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		err = &hypervisor.ResizeError{Target: target, Actual: vm.actual}
	}
	if err != nil {
		return fmt.Errorf("sim: %s %s: %w", VerbMemory, vm.name(), err)
	}
	return nil
}

// Identify tells the name and UUID that the VM was started with.
func (h *Handle) Identify(ctx context.Context) (hypervisor.Identity, error) {
	err := h.call(ctx, VerbIdentify, true, func() error { return nil })
	if err != nil {
		return hypervisor.Identity{}, err
	}
	return hypervisor.Identity{Name: h.vm.config.Name, UUID: h.vm.config.UUID}, nil
}

// OpenConsole connects to the serial console; while it is open, another fails
// with hypervisor.ErrBusy. Closing h leaves it open.
func (h *Handle) OpenConsole(ctx context.Context) (io.ReadWriteCloser, error) {
	vm := h.vm
	var c *console
	err := h.call(ctx, VerbConsole, true, func() error {
		if vm.console != nil {
			return fmt.Errorf("somebody is connected already: %w", hypervisor.ErrBusy)
		}
		c = newConsole(vm)
		vm.console = c
		return nil
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Snapshot writes the VM to the directory destPath, which it makes if need be.
func (h *Handle) Snapshot(ctx context.Context, destPath string) error {
	vm := h.vm
	var m *manifest
	err := h.call(ctx, VerbSnapshot, vm.set.caps.SupportsSnapshot, func() error {
		if err := vm.alive(); err != nil {
			return err
		}
		m = vm.manifest()
		return nil
	})
	if err != nil {
		return err
	}
	if err := m.write(ctx, destPath); err != nil {
		return fmt.Errorf("sim: snapshot %s: %w", vm.name(), err)
	}
	return nil
}
