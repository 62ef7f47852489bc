package cloudhypervisor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"vmfs/backends/cloudhypervisor/api"
	"vmfs/backends/hypervisor"
)

// GetVMInfo asks Cloud Hypervisor for the VM's state and the guest's memory.
func (vm *VM) GetVMInfo(ctx context.Context) (*hypervisor.VMInfo, error) {
	s, info, err := vm.status(ctx)
	if err != nil {
		return nil, vm.wrap("info", err)
	}
	memory := &info.MemoryActualSize
	if *memory <= 0 {
		memory = nil
	}
	return vm.Info(s.state, s.reason, memory), nil
}

// refused tells whether the VMM was asked and would not. It says 500 for nearly everything, so
// that why is to be asked.
func refused(err error) bool {
	var r *api.Error
	return errors.As(err, &r)
}

// Pause stops the virtual CPUs. When Cloud Hypervisor answers they stand still.
func (vm *VM) Pause(ctx context.Context) error { return vm.wrap("pause", vm.Gate.Do(ctx, vm.pause)) }

func (vm *VM) pause(ctx context.Context) error {
	defer vm.kick(readFirst) // nobody waits for the event, and the answer goes first
	err := vm.client.Pause(ctx)
	if !refused(err) {
		return err
	}
	switch s, _, serr := vm.status(ctx); {
	case serr != nil:
		return err
	case s.state == hypervisor.StatePaused:
		return nil // it was, already
	default:
		return fmt.Errorf("%w (it is %s): %w", err, s.state, hypervisor.ErrBusy)
	}
}

// Resume lets the virtual CPUs go on. A guest that has panicked only a reset helps, and the error
// says so. A VM that a server began to make, and was killed, is made whole.
func (vm *VM) Resume(ctx context.Context) error { return vm.wrap("resume", vm.Gate.Do(ctx, vm.resume)) }

func (vm *VM) resume(ctx context.Context) error {
	defer vm.kick(0)
	vm.mu.Lock()
	panicked := vm.panicked
	vm.mu.Unlock()
	if panicked {
		if _, _, err := vm.status(ctx); err != nil {
			return err
		}
		return fmt.Errorf("the guest has panicked: reset it first: %w", hypervisor.ErrBusy)
	}
	err := vm.client.Resume(ctx)
	if !refused(err) {
		return err
	}
	switch s, _, serr := vm.status(ctx); {
	case serr != nil:
		return err
	case s.state == hypervisor.StateRunning:
		return nil // it did, already
	case s.state == hypervisor.StateCreated:
		return vm.finish(ctx)
	case s.state == hypervisor.StateShutdown:
		return fmt.Errorf("the guest has ended: %w", hypervisor.ErrBusy)
	default:
		return fmt.Errorf("%w (it is %s): %w", err, s.state, hypervisor.ErrBusy)
	}
}

// Reset resets the VM as a reset button does. A paused VM stays paused, but for the moment
// that Cloud Hypervisor lets it run.
func (vm *VM) Reset(ctx context.Context) error { return vm.wrap("reset", vm.Gate.Do(ctx, vm.reset)) }

func (vm *VM) reset(ctx context.Context) error {
	defer vm.kick(0)
	before, _, err := vm.status(ctx)
	if err != nil {
		return err
	}
	if before.state != hypervisor.StateRunning && before.state != hypervisor.StatePaused {
		return fmt.Errorf("the VM is %s: %w", before.state, hypervisor.ErrBusy)
	}
	if err := vm.client.Reboot(ctx); err != nil {
		if s, _, serr := vm.status(ctx); serr == nil && s.state == hypervisor.StateShutdown {
			vm.lostSome() // the guest was ended, and could not begin again: no event tells of that
		}
		return err
	}
	vm.noteRuns(api.Event{})
	if before.state == hypervisor.StatePaused {
		return vm.pause(ctx)
	}
	return nil
}

// DeleteVM presses the power button. A paused guest learns of it when it goes on.
func (vm *VM) DeleteVM(ctx context.Context) error {
	defer vm.kick(0)
	err := vm.client.PowerButton(ctx)
	if err == nil {
		vm.Tell(hypervisor.Event{Kind: hypervisor.EventPowerdown, Time: time.Now()}) // of which the VMM tells nothing
	}
	return vm.wrap("poweroff", err)
}

// Shutdown ends Cloud Hypervisor: it writes out what the guest has written to its disks, and
// ends. See handle.Order.
func (vm *VM) Shutdown(ctx context.Context) error {
	defer vm.kick(0)
	return vm.Order(func() error { return vm.wrap("stop", vm.client.ShutdownVMM(ctx)) })
}
