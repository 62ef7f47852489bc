package vz

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"vmfs/backends/handle"
	"vmfs/backends/hypervisor"
	"vmfs/backends/resize"
	"vmfs/backends/vz/shimapi"
	"vmfs/guest/control"
)

const (
	// agentWait bounds a question to the guest's agent that is none of memory.
	agentWait = time.Second
	// agentPause is how long one that did not answer is not asked for nothing.
	agentPause = 2 * time.Second
)

// errSizeUnknown is a guest whose memory nobody knows.
var errSizeUnknown = errors.New("the size of the guest's memory is not known: Virtualization.framework does not tell it, and the guest's agent does not answer on vsock port " + strconv.Itoa(control.Port))

// ResizeMemory sets the target.
func (vm *VM) ResizeMemory(ctx context.Context, bytes int64) error {
	return vm.wrap("memory", vm.Resize(ctx, vm.guestMemory(), bytes))
}

// ResizeMemoryAndWait sets the target and waits until the guest's agent says that it has
// it. Without an agent it waits to the end, and says that the size is not known.
func (vm *VM) ResizeMemoryAndWait(ctx context.Context, bytes int64, timeout time.Duration) error {
	return vm.wrap("memory", vm.ResizeAndWait(ctx, vm.guestMemory(), bytes, timeout))
}

func (vm *VM) guestMemory() handle.Memory {
	return handle.Memory{Set: vm.setTarget, Resizing: vm.resizing}
}

// resizing is the guest as one whose memory is resized.
func (vm *VM) resizing(set func(context.Context) (int64, error)) resize.Guest {
	poll := handle.MemoryPoll()
	var target int64
	return resize.Guest{
		Set: func(ctx context.Context) (_ int64, err error) {
			target, err = set(ctx)
			return target, err
		},
		Actual: func(ctx context.Context) (int64, error) {
			for {
				actual, err := vm.askMemory(ctx)
				switch {
				case err == nil && actual > target-memoryStep && actual < target+memoryStep:
					return target, nil // the guest's step may be another
				case !errors.Is(err, errSizeUnknown):
					return actual, err
				}
				if ended := poll.Wait(ctx); ended != nil {
					return 0, fmt.Errorf("%w (%w)", err, ended)
				}
			}
		},
		Changed: poll.Wait,
	}
}

// setTarget tells the balloon, and returns the target rounded.
func (vm *VM) setTarget(ctx context.Context, bytes int64) (int64, error) {
	rec := vm.record()
	if rec == nil {
		_, _, err := vm.status(ctx)
		return 0, errors.Join(err, fmt.Errorf("what memory it was started with is not known: %w", hypervisor.ErrNotSupported))
	}
	c := &rec.Config.VMConfig
	l := resize.Limits{Base: ceiling(c), Step: memoryStep, Most: c.MemoryBytes + c.HotplugBytes}
	if _, _, err := l.Split(bytes); err != nil {
		if _, _, serr := vm.status(ctx); serr != nil {
			return 0, serr // one that is gone has no limits
		}
		return 0, err
	}
	target := roundTarget(c, bytes)
	return target, vm.call(ctx, shimapi.MethodMemory, shimapi.Memory{Bytes: target}, nil)
}

// memoryNow is what the guest has, 0 where that is not known. Of a guest that stands still
// it is what it was. It does not wait for long.
func (vm *VM) memoryNow(ctx context.Context, info shimapi.Info) int64 {
	vm.mu.Lock()
	ask := info.Phase == shimapi.PhaseRunning && time.Now().After(vm.noAgent)
	vm.mu.Unlock()
	if ask {
		ctx, cancel := context.WithTimeout(ctx, agentWait)
		defer cancel()
		if actual, err := vm.ask(ctx); err == nil {
			return actual
		}
	}
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if info.Phase == shimapi.PhaseEnded {
		return 0
	}
	return vm.memory
}

// askMemory is what the guest has: what its agent says, or, while the guest stands still,
// what it said last.
func (vm *VM) askMemory(ctx context.Context) (int64, error) {
	s, info, err := vm.status(ctx)
	if err != nil {
		return 0, err
	}
	if s.state != hypervisor.StateRunning {
		if known := vm.memoryNow(ctx, info); known > 0 {
			return known, nil
		}
		return 0, errSizeUnknown
	}
	asking, cancel := context.WithTimeout(ctx, agentWait)
	defer cancel()
	actual, err := vm.ask(asking)
	if err != nil && !errors.Is(err, shimapi.ErrClosed) && !errors.Is(err, errSizeUnknown) {
		err = fmt.Errorf("%w: %v", errSizeUnknown, err)
	}
	return actual, err
}

// ask asks the agent, and tells if the size has changed.
func (vm *VM) ask(ctx context.Context) (int64, error) {
	rec := vm.record()
	if rec == nil || rec.Config.VsockCID == 0 {
		return 0, errSizeUnknown
	}
	vm.asking.Lock()
	defer vm.asking.Unlock()
	vm.mu.Lock()
	agent, closed := vm.agent, vm.closed
	vm.mu.Unlock()
	if closed {
		return 0, shimapi.ErrClosed
	}
	if agent == nil {
		var err error
		if agent, err = control.Dial(ctx, newDialer(rec.Config.VsockSocket)); err != nil {
			vm.mu.Lock()
			vm.noAgent = time.Now().Add(agentPause)
			vm.mu.Unlock()
			return 0, err
		}
		if !vm.useAgent(agent) {
			return 0, shimapi.ErrClosed
		}
	}
	m, err := agent.Memory(ctx)
	if err != nil {
		_ = agent.Close() // it is not to be asked again
		vm.useAgent(nil)
		return 0, err
	}
	vm.mu.Lock()
	known := vm.memory
	changed := known != 0 && known != m.Actual
	vm.memory = m.Actual
	vm.mu.Unlock()
	if changed || known == 0 {
		vm.changeRecord(func(r *record) { r.Memory = m.Actual })
	}
	if changed {
		vm.Tell(hypervisor.Event{Kind: hypervisor.EventMemory, Time: time.Now(), Detail: []hypervisor.Detail{
			{Key: "actual", Value: strconv.FormatInt(m.Actual, 10)},
		}})
	}
	return m.Actual, nil
}

// useAgent keeps a connection to the agent for the next question, unless the handle is
// closed.
func (vm *VM) useAgent(c *control.Client) bool {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if vm.closed {
		if c != nil {
			_ = c.Close() // nothing was asked
		}
		return false
	}
	vm.agent = c
	return true
}
