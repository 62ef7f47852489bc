package qemu

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"vmfs/backends/hypervisor"
	"vmfs/backends/qemu/qmp"
)

// GetVMInfo asks QEMU for its run state and the guest's memory.
func (vm *VM) GetVMInfo(ctx context.Context) (*hypervisor.VMInfo, error) {
	var (
		both      sync.WaitGroup
		actual    int64
		memoryErr error
	)
	both.Go(func() { actual, memoryErr = vm.actualMemory(ctx) })
	status, err := vm.status(ctx)
	both.Wait()
	if err != nil {
		return nil, vm.wrap("info", err)
	}
	memory := &actual
	if memoryErr != nil {
		if refused := (*qmp.Error)(nil); !errors.As(memoryErr, &refused) {
			return nil, vm.wrap("info", memoryErr)
		}
		memory = nil
	}
	s := vm.meaning(status)
	return vm.Info(s.state, s.reason, memory), nil
}

// Pause stops the virtual CPUs. When QEMU answers they stand still.
func (vm *VM) Pause(ctx context.Context) error { return vm.wrap("pause", vm.Gate.Do(ctx, vm.stop)) }

func (vm *VM) stop(ctx context.Context) error { return vm.order(ctx, "stop") }

// Resume lets the virtual CPUs go on; a guest that sleeps is woken. After an
// internal error only a reset helps, and the error says so.
func (vm *VM) Resume(ctx context.Context) error { return vm.wrap("resume", vm.Gate.Do(ctx, vm.resume)) }

func (vm *VM) resume(ctx context.Context) error {
	vm.mu.Lock()
	suspended := vm.suspended
	vm.mu.Unlock()
	if err := vm.conn.Err(); err != nil {
		return err
	}
	if vm.Ended() {
		return fmt.Errorf("the guest has ended: %w", hypervisor.ErrBusy)
	}
	if suspended {
		return vm.raw(ctx).SystemWakeup()
	}
	err := vm.order(ctx, "cont")
	var refused *qmp.Error
	if errors.As(err, &refused) {
		status, serr := vm.status(ctx)
		if serr == nil && vm.meaning(status).state != hypervisor.StateRunning {
			return fmt.Errorf("%w (it is %s): %w", err, status, hypervisor.ErrBusy)
		}
	}
	if err == nil {
		vm.SetRan()
	}
	return err
}

// Reset resets the VM as a reset button does. A paused VM stays paused.
func (vm *VM) Reset(ctx context.Context) error {
	return vm.wrap("reset", vm.Gate.Do(ctx, func(ctx context.Context) error { return vm.raw(ctx).SystemReset() }))
}

// InjectNMI presses the NMI button.
func (vm *VM) InjectNMI(ctx context.Context) error {
	return vm.wrap("nmi", vm.Gate.Do(ctx, vm.injectNMI))
}

func (vm *VM) injectNMI(ctx context.Context) error {
	err := vm.order(ctx, "inject-nmi")
	var refused *qmp.Error
	if errors.As(err, &refused) && !vm.hasNMI(ctx) {
		return fmt.Errorf("a machine of this kind has no NMI: %w", hypervisor.ErrNotSupported)
	}
	return err
}

// hasNMI tells whether the machine takes an NMI, as far as QEMU answers.
func (vm *VM) hasNMI(ctx context.Context) bool {
	var machine string
	var able []struct {
		Name string `json:"name"`
	}
	args := map[string]any{"path": "/machine", "property": "type"}
	if vm.conn.Execute(ctx, "qom-get", args, &machine) != nil ||
		vm.conn.Execute(ctx, "qom-list-types", map[string]any{"implements": "nmi"}, &able) != nil {
		return true
	}
	return slices.ContainsFunc(able, func(t struct {
		Name string `json:"name"`
	}) bool {
		return t.Name == machine
	})
}

// DeleteVM presses the power button. A paused guest learns of it when it goes on.
func (vm *VM) DeleteVM(ctx context.Context) error {
	return vm.wrap("poweroff", vm.raw(ctx).SystemPowerdown())
}

// Shutdown tells QEMU to quit: it writes out what the guest has written to its
// disks, and ends. See handle.Order.
func (vm *VM) Shutdown(ctx context.Context) error {
	return vm.Order(func() error { return vm.wrap("stop", vm.quit(ctx)) })
}

// quit gives QEMU the order. QEMU may go before it has answered.
func (vm *VM) quit(ctx context.Context) error {
	select {
	case <-vm.conn.Done():
		return vm.conn.Err()
	default:
	}
	if err := vm.raw(ctx).Quit(); !errors.Is(err, qmp.ErrDisconnected) {
		return err
	}
	return nil
}
