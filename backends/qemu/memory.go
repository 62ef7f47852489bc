package qemu

import (
	"context"
	"errors"
	"time"

	"vmfs/backends/resize"
)

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
func (vm *VM) memoryLimits(ctx context.Context) (resize.Limits, error) {
	vm.mu.Lock()
	known, rec := vm.limits, vm.record()
	vm.mu.Unlock()
	if known != nil {
		return *known, nil
	}
	var summary struct {
		Base int64 `json:"base-memory"`
	}
	if err := vm.conn.Execute(ctx, "query-memory-size-summary", nil, &summary); err != nil {
		return resize.Limits{}, err
	}
	var devices []memoryDevice
	if err := vm.conn.Execute(ctx, "query-memory-devices", nil, &devices); err != nil {
		return resize.Limits{}, err
	}
	l := resize.Limits{Base: summary.Base, Step: memoryStep}
	for _, d := range devices {
		if d.Data.ID == idVirtioMem {
			l.Plug, l.Step = d.Data.MaxSize, d.Data.BlockSize
		}
	}
	l.Most = l.Base + l.Plug
	if rec != nil {
		l.Most = min(l.Most, l.Base+rec.Config.HotplugBytes)
	}
	vm.mu.Lock()
	defer vm.mu.Unlock()
	vm.limits = &l
	return l, nil
}

// target sets a target, and returns it rounded.
func (vm *VM) target(ctx context.Context, bytes int64) (int64, error) {
	return vm.Target(ctx, bytes, vm.setTarget)
}

// setTarget gives QEMU the target, and returns it rounded.
func (vm *VM) setTarget(ctx context.Context, bytes int64) (int64, error) {
	l, err := vm.memoryLimits(ctx)
	if err != nil {
		return 0, err
	}
	plugged, balloon, err := l.Split(bytes)
	if err != nil {
		return 0, err
	}
	if l.Plug > 0 {
		args := map[string]any{"path": idVirtioMem, "property": "requested-size", "value": plugged}
		if err := vm.conn.Execute(ctx, "qom-set", args, nil); err != nil {
			return 0, err
		}
	}
	return balloon + plugged, vm.raw(ctx).Balloon(balloon)
}

// ResizeMemory sets the target.
func (vm *VM) ResizeMemory(ctx context.Context, bytes int64) error {
	_, err := vm.target(ctx, bytes)
	return vm.wrap("memory", err)
}

// ResizeMemoryAndWait sets the target and waits until the guest has it.
func (vm *VM) ResizeMemoryAndWait(ctx context.Context, bytes int64, timeout time.Duration) error {
	return vm.wrap("memory", vm.resizeAndWait(ctx, bytes, timeout))
}

func (vm *VM) resizeAndWait(ctx context.Context, bytes int64, timeout time.Duration) error {
	changed, forget := vm.wait()
	defer forget()
	return resize.Guest{
		Set:    func(ctx context.Context) (int64, error) { return vm.target(ctx, bytes) },
		Actual: vm.actualMemory,
		Changed: func(ctx context.Context) error {
			select {
			case <-changed:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			case <-vm.conn.Done():
				return vm.conn.Err()
			}
		},
	}.Wait(ctx, timeout)
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
