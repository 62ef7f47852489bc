package cloudhypervisor

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"vmfs/backends/cloudhypervisor/api"
	"vmfs/backends/handle"
	"vmfs/backends/hypervisor"
	"vmfs/backends/resize"
)

// memoryStep is the size in which virtio-mem plugs memory.
const memoryStep = int64(2) << 20

// ResizeMemory sets the target.
func (vm *VM) ResizeMemory(ctx context.Context, bytes int64) error {
	return vm.wrap("memory", vm.Resize(ctx, vm.guestMemory(), bytes))
}

// ResizeMemoryAndWait sets the target and waits until the guest has it.
func (vm *VM) ResizeMemoryAndWait(ctx context.Context, bytes int64, timeout time.Duration) error {
	return vm.wrap("memory", vm.ResizeAndWait(ctx, vm.guestMemory(), bytes, timeout))
}

func (vm *VM) guestMemory() handle.Memory {
	return handle.Memory{Set: vm.setTarget, Resizing: vm.resizing}
}

// resizing is the guest as one whose memory is resized.
func (vm *VM) resizing(set func(context.Context) (int64, error)) resize.Guest {
	poll := handle.MemoryPoll()
	return resize.Guest{Set: set, Actual: vm.actualMemory, Changed: poll.Wait}
}

// actualMemory asks how much the guest has, and tells if it has changed.
func (vm *VM) actualMemory(ctx context.Context) (int64, error) {
	info, err := vm.client.Info(ctx)
	if err != nil {
		return 0, err
	}
	actual := info.MemoryActualSize
	vm.mu.Lock()
	changed := vm.memory != 0 && vm.memory != actual
	vm.memory = actual
	vm.mu.Unlock()
	if changed {
		vm.Tell(hypervisor.Event{Kind: hypervisor.EventMemory, Time: time.Now(), Detail: []hypervisor.Detail{
			{Key: "actual", Value: strconv.FormatInt(actual, 10)},
		}})
	}
	return actual, nil
}

// setTarget gives Cloud Hypervisor the target, and returns it rounded.
func (vm *VM) setTarget(ctx context.Context, bytes int64) (int64, error) {
	info, err := vm.client.Info(ctx)
	if err != nil {
		return 0, err
	}
	memory, balloon := info.Config.Memory, info.Config.Balloon
	l := resize.Limits{Base: memory.Size, Plug: memory.HotplugSize, Step: memoryStep}
	l.Most = l.Base + l.Plug
	if rec := vm.record(); rec != nil {
		l.Most = min(l.Most, l.Base+rec.Config.HotplugBytes)
	}
	plugged, left, err := l.Split(bytes)
	if err != nil {
		return 0, err
	}
	if info.State != api.StateRunning && info.State != api.StatePaused {
		return 0, fmt.Errorf("the guest does not run: %w", hypervisor.ErrBusy)
	}
	if balloon == nil && left != l.Base {
		return 0, fmt.Errorf("%d bytes: the VM was started without a balloon, and has at least %d: %w", bytes, l.Base, hypervisor.ErrNotSupported)
	}
	// What it was asked for before it refuses, or would ask of the guest again.
	var change api.Resize
	if plugged != memory.HotpluggedSize {
		ram := l.Base + plugged
		change.RAM = &ram
	}
	if held := l.Base - left; balloon != nil && held != balloon.Size {
		change.Balloon = &held
	}
	if change != (api.Resize{}) {
		err = vm.client.Resize(ctx, change)
	}
	return left + plugged, err
}
