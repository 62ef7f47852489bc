package vz

import (
	"context"
	"errors"
	"fmt"

	"vmfs/backends/hypervisor"
	"vmfs/backends/vz/shimapi"
)

// GetVMInfo asks the shim for the VM's state, and the guest's agent for its memory.
func (vm *VM) GetVMInfo(ctx context.Context) (*hypervisor.VMInfo, error) {
	s, info, err := vm.status(ctx)
	if err != nil {
		return nil, vm.wrap("info", err)
	}
	var known *int64
	if memory := vm.memoryNow(ctx, info); memory > 0 {
		known = &memory
	}
	return vm.Info(s.state, s.reason, known), nil
}

// Pause stops the virtual CPUs. When the shim answers the framework says that it is paused.
func (vm *VM) Pause(ctx context.Context) error { return vm.wrap("pause", vm.Gate.Do(ctx, vm.pause)) }

func (vm *VM) pause(ctx context.Context) error { return vm.call(ctx, shimapi.MethodPause, nil, nil) }

// Resume lets the virtual CPUs go on. A VM that a server began to start, and was killed, is
// started.
func (vm *VM) Resume(ctx context.Context) error { return vm.wrap("resume", vm.Gate.Do(ctx, vm.resume)) }

func (vm *VM) resume(ctx context.Context) error {
	err := vm.call(ctx, shimapi.MethodResume, nil, nil)
	if !errors.Is(err, hypervisor.ErrBusy) {
		return err
	}
	s, _, serr := vm.status(ctx)
	if serr != nil || s.state != hypervisor.StateCreated {
		return err
	}
	switch rec := vm.record(); {
	case rec == nil:
		return errors.New("what the VM was to be started with is not known: stop it, and start it again")
	case rec.Restores:
		return errors.New("a server was killed while it restored the VM: stop it, and restore it again")
	}
	return vm.begin(ctx, "")
}

// DeleteVM presses the power button.
func (vm *VM) DeleteVM(ctx context.Context) error {
	return vm.wrap("poweroff", vm.call(ctx, shimapi.MethodPowerOff, nil, nil))
}

// Shutdown ends the VM and its shim (see handle.Handle.Order).
func (vm *VM) Shutdown(ctx context.Context) error {
	err := vm.Order(func() error { return vm.call(ctx, shimapi.MethodStop, nil, nil) })
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w (process %d can be killed)", err, vm.proc.PID)
	}
	return vm.wrap("stop", err)
}
