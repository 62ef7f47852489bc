package qemu

import (
	"context"
	"errors"
	"fmt"
	"time"

	"vmfs/backends/hypervisor"
)

// limits are the bounds of a VM's memory; they do not change while it runs.
type limits struct {
	base int64 // what it booted with
	plug int64 // what virtio-mem can add
	most int64 // the largest target: as configured, which plug is rounded up from
	step int64 // of virtio-mem
}

// balloonPage is the balloon's step.
const balloonPage = 4096

// memoryDevice is an entry of query-memory-devices.
type memoryDevice struct {
	Type string `json:"type"`
	Data struct {
		ID        string `json:"id"`
		Size      int64  `json:"size"`
		MaxSize   int64  `json:"max-size"`
		BlockSize int64  `json:"block-size"`
	} `json:"data"`
}

// actualMemory asks how much the guest has: the base less what the balloon holds,
// and what is plugged.
func (vm *VM) actualMemory(ctx context.Context) (int64, error) {
	var balloon struct {
		Actual int64 `json:"actual"`
	}
	var devices []memoryDevice
	first := make(chan error, 1)
	go func() { first <- vm.conn.Execute(ctx, "query-balloon", nil, &balloon) }()
	err := vm.conn.Execute(ctx, "query-memory-devices", nil, &devices)
	if err := errors.Join(<-first, err); err != nil {
		return 0, err
	}
	for _, d := range devices {
		balloon.Actual += d.Data.Size
	}
	return balloon.Actual, nil
}

// memoryLimits returns the VM's limits, from QEMU at the first time.
func (vm *VM) memoryLimits(ctx context.Context) (limits, error) {
	vm.mu.Lock()
	known, rec := vm.limits, vm.rec
	vm.mu.Unlock()
	if known != nil {
		return *known, nil
	}
	var summary struct {
		Base int64 `json:"base-memory"`
	}
	if err := vm.conn.Execute(ctx, "query-memory-size-summary", nil, &summary); err != nil {
		return limits{}, err
	}
	var devices []memoryDevice
	if err := vm.conn.Execute(ctx, "query-memory-devices", nil, &devices); err != nil {
		return limits{}, err
	}
	l := limits{base: summary.Base, step: memoryStep}
	for _, d := range devices {
		if d.Data.ID == idVirtioMem {
			l.plug, l.step = d.Data.MaxSize, d.Data.BlockSize
		}
	}
	l.most = l.base + l.plug
	if rec != nil {
		l.most = min(l.most, l.base+rec.Config.HotplugBytes)
	}
	vm.mu.Lock()
	defer vm.mu.Unlock()
	vm.limits = &l
	return l, nil
}

// split rounds a target and says what of it is plugged and what the balloon leaves.
func (l limits) split(bytes int64) (plugged, balloon int64, err error) {
	switch {
	case bytes < memoryFloor:
		return 0, 0, fmt.Errorf("%d bytes: less than %d leave no kernel enough to run: %w", bytes, memoryFloor, hypervisor.ErrInvalid)
	case bytes > l.most:
		return 0, 0, fmt.Errorf("%d bytes: the most is %d (memory %d and hotplug %d): %w", bytes, l.most, l.base, l.most-l.base, hypervisor.ErrInvalid)
	case bytes < l.base:
		return 0, (bytes + balloonPage/2) / balloonPage * balloonPage, nil
	}
	plugged = (bytes - l.base + l.step/2) / l.step * l.step
	return min(plugged, l.plug), l.base, nil
}

// setTarget gives QEMU the target, and returns it rounded.
func (vm *VM) setTarget(ctx context.Context, bytes int64) (int64, error) {
	if err := vm.free(ctx); err != nil {
		return 0, err
	}
	select { // two targets at once must not be mixed
	case vm.resizing <- struct{}{}:
		defer func() { <-vm.resizing }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	l, err := vm.memoryLimits(ctx)
	if err != nil {
		return 0, err
	}
	plugged, balloon, err := l.split(bytes)
	if err != nil {
		return 0, err
	}
	if l.plug > 0 {
		args := map[string]any{"path": idVirtioMem, "property": "requested-size", "value": plugged}
		if err := vm.conn.Execute(ctx, "qom-set", args, nil); err != nil {
			return 0, err
		}
	}
	return balloon + plugged, vm.raw(ctx).Balloon(balloon)
}

// ResizeMemory sets the target.
func (vm *VM) ResizeMemory(ctx context.Context, bytes int64) error {
	_, err := vm.setTarget(ctx, bytes)
	return vm.wrap("memory", err)
}

// ResizeMemoryAndWait sets the target and waits until the guest has it.
func (vm *VM) ResizeMemoryAndWait(ctx context.Context, bytes int64, timeout time.Duration) error {
	return vm.wrap("memory", vm.resizeAndWait(ctx, bytes, timeout))
}

func (vm *VM) resizeAndWait(ctx context.Context, bytes int64, timeout time.Duration) error {
	within, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	changed, forget := vm.wait()
	defer forget()
	target, err := vm.setTarget(within, bytes)
	if err != nil {
		return err
	}
	actual := int64(-1)
	for {
		now, err := vm.actualMemory(within)
		if err == nil {
			if actual = now; actual == target {
				return nil
			}
			select {
			case <-changed:
				continue
			case <-within.Done():
			case <-vm.conn.Done():
				return vm.conn.Err()
			}
		}
		switch {
		case errors.Is(ctx.Err(), context.Canceled):
			return ctx.Err()
		case within.Err() != nil && actual >= 0:
			return &hypervisor.ResizeError{Target: target, Actual: actual}
		case err != nil:
			return err
		}
	}
}

// wait returns a channel that gets a token whenever the guest's memory changes.
func (vm *VM) wait() (changed <-chan struct{}, forget func()) {
	ch := make(chan struct{}, 1)
	vm.mu.Lock()
	defer vm.mu.Unlock()
	vm.waiters[ch] = struct{}{}
	return ch, func() {
		vm.mu.Lock()
		defer vm.mu.Unlock()
		delete(vm.waiters, ch)
	}
}

func (vm *VM) wakeWaiters() {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	for ch := range vm.waiters {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}
