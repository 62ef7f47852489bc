// Package gate keeps a VM's other commands out while one is under way that they would
// spoil, such as a snapshot.
//
// The package imports the standard library and package hypervisor.
package gate

import (
	"context"
	"fmt"
	"sync"

	"vmfs/backends/hypervisor"
)

// A Gate is open, or held by one command. Its zero value is open.
type Gate struct {
	mu    sync.Mutex    // guards all below
	busy  string        // what holds it; "" is nothing
	brief bool          // others are to wait for that
	freed chan struct{} // closed when it is over
}

// Pass returns nil when nothing holds the gate. It waits for what does so for a moment
// only; anything else is an ErrBusy that says what it is.
func (g *Gate) Pass(ctx context.Context) error {
	for {
		g.mu.Lock()
		busy, freed, brief := g.busy, g.freed, g.brief
		g.mu.Unlock()
		switch {
		case busy == "":
			return nil
		case !brief:
			return fmt.Errorf("%s: %w", busy, hypervisor.ErrBusy)
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return fmt.Errorf("%s, and that takes too long: %w", busy, ctx.Err())
		}
	}
}

// Hold keeps others out until release is called; brief is whether they are to wait
// instead of being refused. It is an ErrBusy while something else does.
func (g *Gate) Hold(what string, brief bool) (release func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.busy != "" {
		return nil, fmt.Errorf("%s: %w", g.busy, hypervisor.ErrBusy)
	}
	freed := make(chan struct{})
	g.busy, g.brief, g.freed = what, brief, freed
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.busy = ""
		close(freed)
	}, nil
}

// Enter is Hold as soon as Pass lets one through.
func (g *Gate) Enter(ctx context.Context, what string, brief bool) (release func(), err error) {
	for {
		if err := g.Pass(ctx); err != nil {
			return nil, err
		}
		if release, err := g.Hold(what, brief); err == nil {
			return release, nil
		} // another was faster, whom Pass knows now
	}
}

// Do does what others are let through for, and keeps nobody out.
func (g *Gate) Do(ctx context.Context, f func(context.Context) error) error {
	if err := g.Pass(ctx); err != nil {
		return err
	}
	return f(ctx)
}
