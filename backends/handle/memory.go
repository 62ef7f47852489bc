package handle

import (
	"context"
	"errors"
	"time"

	"vmfs/backends/hypervisor"
	"vmfs/backends/resize"
	"vmfs/internal/wait"
)

// A VMM that has no event for a guest that has given memory or taken it is asked, at first
// often, then less so.
const (
	memoryPollFirst = 10 * time.Millisecond
	memoryPollMost  = time.Second
	// trackFor bounds how long a guest is tracked to a target for which nobody waits.
	trackFor = 10 * time.Minute
)

// MemoryPoll is how often a guest is asked for its memory that is on its way to a target.
func MemoryPoll() wait.Backoff { return wait.Backoff{First: memoryPollFirst, Most: memoryPollMost} }

// A Memory is that of a guest whose VMM has no events of it.
type Memory struct {
	// Set sets a target, and returns it rounded.
	Set func(ctx context.Context, bytes int64) (target int64, err error)
	// Resizing is the guest on its way to the target that set sets.
	Resizing func(set func(context.Context) (int64, error)) resize.Guest
}

// Resize sets a target, and tells of the guest's way to it.
func (h *Handle) Resize(ctx context.Context, m Memory, bytes int64) error {
	target, err := h.Target(ctx, bytes, m.Set)
	if err == nil {
		h.track(m, target)
	}
	return err
}

// ResizeAndWait sets a target, and waits until the guest has it.
func (h *Handle) ResizeAndWait(ctx context.Context, m Memory, bytes int64, timeout time.Duration) error {
	var target int64
	err := m.Resizing(func(ctx context.Context) (_ int64, err error) {
		target, err = h.Target(ctx, bytes, m.Set)
		return target, err
	}).Wait(ctx, timeout)
	if late := (*hypervisor.ResizeError)(nil); errors.As(err, &late) {
		h.track(m, target)
	}
	return err
}

// track tells of the guest's way to a target, for which nobody waits, until it has that
// or gets another one.
func (h *Handle) track(m Memory, target int64) {
	ctx, cancel := context.WithCancel(h.Life)
	h.mu.Lock()
	before := h.untrack
	h.untrack = cancel
	h.mu.Unlock()
	if before != nil {
		before()
	}
	if !h.Spawn(func() {
		defer cancel()
		// However it ends, there is nobody to be told.
		_ = m.Resizing(func(context.Context) (int64, error) { return target, nil }).Wait(ctx, trackFor)
	}) {
		cancel()
	}
}
