package companion

import (
	"context"
	"log/slog"
	"time"

	"vmfs/internal/wait"
)

const (
	// reviveTimeout bounds one attempt to start a companion anew.
	reviveTimeout = 30 * time.Second
	// reviveFirst and reviveMost bound the pause before another attempt. There is
	// none before the first, and before one for a companion that has lived for longer.
	reviveFirst = 100 * time.Millisecond
	reviveMost  = 30 * time.Second
)

// A Keeper sees to it that a VMM has its companion for as long as the handle on the VMM
// is there, and that the companion ends with the VMM.
type Keeper struct {
	// What is what it is in words, for the log: "the vsock device".
	What string
	// Revive finds the companion, or starts it, and does what a new one needs. First is
	// whether it is the first time, by a Keeper that was given none.
	Revive func(ctx context.Context, first bool) (*Companion, error)
	// Over tells whether the VMM itself has ended, and not only what led to it.
	Over func() bool
	// Settle is how long after the companion the end of the VMM may be seen, with
	// which it has ended itself.
	Settle time.Duration
	// Linger is how long the companion may take to end by itself after the VMM.
	Linger time.Duration
	// Log gets what happens. It names the VM.
	Log *slog.Logger
}

// Run keeps the companion until ctx ends, as it must with the connection to the VMM and
// with the handle. A nil c is to be found, or started if it has ended.
func (k *Keeper) Run(ctx context.Context, c *Companion) {
	first := c == nil
	again := wait.Backoff{First: reviveFirst, Most: reviveMost}
	for pause := time.Duration(0); ; {
		if c != nil {
			began := time.Now()
			if !k.watch(ctx, c) {
				return
			}
			pid := c.PID
			c = nil
			if time.Since(began) > reviveMost {
				pause = 0
				again.Reset()
			}
			k.Log.Warn(k.What+" has ended and is restarted; see the VM's log", "pid", pid, "in", pause)
		} else {
			var err error
			if c, err = k.revive(ctx, first); err == nil {
				first = false
				continue
			}
			if ctx.Err() != nil {
				return
			}
			k.Log.Error(k.What+" cannot be started and is tried again", "in", pause, "err", err)
		}
		if wait.For(ctx, pause) != nil {
			return
		}
		pause = again.Next()
	}
}

func (k *Keeper) revive(ctx context.Context, first bool) (*Companion, error) {
	ctx, cancel := context.WithTimeout(ctx, reviveTimeout)
	defer cancel()
	return k.Revive(ctx, first)
}

// watch waits for the companion's end, which is true, or that of the VMM or the handle,
// with which ctx ends.
func (k *Keeper) watch(ctx context.Context, c *Companion) bool {
	if c.Wait(ctx) == nil && !k.Over() && wait.For(ctx, k.Settle) == nil {
		return !k.Over()
	}
	if k.Over() {
		// One that outlived its VMM could take itself for the companion of the next.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), k.Linger)
		defer cancel()
		if c.Wait(ctx) != nil {
			_ = c.End(context.WithoutCancel(ctx)) // it has ended just now
		}
	}
	return false
}
