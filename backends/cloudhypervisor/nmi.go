package cloudhypervisor

import (
	"context"
	"fmt"

	"vmfs/backends/cloudhypervisor/api"
	"vmfs/backends/hypervisor"
)

// InjectNMI sends the guest a non-maskable interrupt.
func (vm *VM) InjectNMI(ctx context.Context) error { return vm.wrap("nmi", vm.injectNMI(ctx)) }

// injectNMI has the virtual CPUs stand still for a moment before. Cloud Hypervisor 53 keeps
// a mark that they have heard of an NMI, takes it for the answer to the next one, and so
// loses that; a pause takes the mark away.
func (vm *VM) injectNMI(ctx context.Context) error {
	release, err := vm.Gate.Enter(ctx, "an NMI is being sent", true)
	if err != nil {
		return err
	}
	defer release()
	s, _, err := vm.status(ctx)
	if err != nil {
		return err
	}
	if s.state != hypervisor.StateRunning {
		return fmt.Errorf("the VM is %s, and would not get it: resume it first: %w", s.state, hypervisor.ErrBusy)
	}
	if err := vm.blink(ctx); err != nil {
		return err
	}
	return vm.client.NMI(ctx)
}

// blink has the virtual CPUs of a VM that runs stand still for the moment between two calls,
// of which no event tells. Whoever dies or gives up in it, the VM goes on.
func (vm *VM) blink(ctx context.Context) error {
	vm.Hold(true)
	vm.leaveUnsaid(2)
	err := vm.client.Pause(ctx)
	if refused(err) {
		vm.leaveUnsaid(-2)
		vm.Hold(false)
		return err
	}
	goOn := func() error {
		defer vm.Hold(false)
		return vm.Ask(vm.client.Resume)
	}
	if err != nil { // it may be paused, or be so soon
		vm.Spawn(func() { _ = goOn() }) // the error of the pause says enough
		return err
	}
	return goOn()
}

// leaveUnsaid has the next n pauses and resumptions not be told.
func (vm *VM) leaveUnsaid(n int) {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	vm.unsaid = max(vm.unsaid+n, 0)
}

// isUnsaid tells whether an event is not to be told.
func (vm *VM) isUnsaid(ev api.Event) bool {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if vm.unsaid == 0 || ev.Name != "paused" && ev.Name != "resumed" {
		return false
	}
	vm.unsaid--
	return true
}
