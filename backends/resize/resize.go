// Package resize is a VM's memory as a target that its guest follows: which sizes
// there are, and waiting until the guest has one. It is the same for all back ends, so
// that a size written to a VM means the same on each.
//
// The package imports package hypervisor.
package resize

import (
	"context"
	"errors"
	"fmt"
	"time"

	"vmfs/backends/hypervisor"
)

// Limits are the bounds of a VM's memory; they do not change while it runs. Above the
// base memory is plugged in, below it a balloon takes memory away.
type Limits struct {
	Base int64 // what it booted with
	Plug int64 // what can be plugged
	Most int64 // the largest target: as configured, which Plug is rounded up from
	Step int64 // of what is plugged
}

// Page is the balloon's step.
const Page = 4096

// Split rounds a target and says what of it is plugged, and what the balloon leaves of
// the base.
func (l Limits) Split(bytes int64) (plugged, left int64, err error) {
	switch {
	case bytes < hypervisor.MinMemory:
		return 0, 0, fmt.Errorf("%d bytes: less than %d leave no kernel enough to run: %w", bytes, hypervisor.MinMemory, hypervisor.ErrInvalid)
	case bytes > l.Most:
		return 0, 0, fmt.Errorf("%d bytes: the most is %d (memory %d and hotplug %d): %w", bytes, l.Most, l.Base, l.Most-l.Base, hypervisor.ErrInvalid)
	case bytes < l.Base:
		return 0, (bytes + Page/2) / Page * Page, nil
	}
	plugged = (bytes - l.Base + l.Step/2) / l.Step * l.Step
	return min(plugged, l.Plug), l.Base, nil
}

// A Guest is one whose memory is resized.
type Guest struct {
	// Set gives the VMM the target, and returns it rounded.
	Set func(ctx context.Context) (target int64, err error)
	// Actual asks how much the guest has.
	Actual func(ctx context.Context) (int64, error)
	// Changed waits until it may have more or less.
	Changed func(ctx context.Context) error
}

// Wait sets the target and waits until the guest has it. At the timeout it returns a
// *hypervisor.ResizeError.
func (g Guest) Wait(ctx context.Context, timeout time.Duration) error {
	within, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	target, err := g.Set(within)
	if err != nil {
		return err
	}
	actual := int64(-1)
	for {
		now, err := g.Actual(within)
		if err == nil {
			if actual = now; actual == target {
				return nil
			}
			if err = g.Changed(within); err == nil {
				continue
			}
		}
		switch {
		case errors.Is(ctx.Err(), context.Canceled):
			return ctx.Err()
		case within.Err() != nil && actual >= 0:
			return &hypervisor.ResizeError{Target: target, Actual: actual}
		default:
			return err
		}
	}
}
