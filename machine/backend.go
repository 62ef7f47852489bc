package machine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"sync"
	"time"

	"vmfs/backends/hypervisor"
)

// A Backend is what this host can run VMs with.
type Backend struct {
	Type         hypervisor.Type
	Binary       string // the VMM's program
	Version      string
	Capabilities hypervisor.Capabilities
	Err          error // why VMs of this type cannot be started; nil if they can
}

// findTimeout bounds the search for one back end's program and version.
const findTimeout = 10 * time.Second

// backendCache keeps the back ends that were found. One that was not found is
// looked for again when it is asked for.
type backendCache struct {
	mu      sync.Mutex // guards all below
	found   map[hypervisor.Type]Backend
	looking map[hypervisor.Type]chan struct{} // closed when the search is over
	failed  map[hypervisor.Type]Backend       // how the last search ended
}

// findBackends starts to look for every back end that there is.
func (h *Host) findBackends() {
	for _, t := range hypervisor.Types() {
		h.lookFor(t)
	}
}

// lookFor starts a search unless one is under way, and returns what is closed at
// its end, or nil if there is nothing to search.
func (h *Host) lookFor(t hypervisor.Type) <-chan struct{} {
	c := &h.backends
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.found[t]; ok {
		return nil
	}
	if done, ok := c.looking[t]; ok {
		return done
	}
	if c.looking == nil {
		c.looking = make(map[hypervisor.Type]chan struct{})
		c.found = make(map[hypervisor.Type]Backend)
		c.failed = make(map[hypervisor.Type]Backend)
	}
	done := make(chan struct{})
	finish := func(b Backend) {
		c.mu.Lock()
		defer c.mu.Unlock()
		_, told := c.failed[t]
		delete(c.looking, t)
		delete(c.failed, t)
		if b.Err != nil {
			c.failed[t] = b
			if !told {
				level := slog.LevelWarn
				if errors.Is(b.Err, exec.ErrNotFound) && t != h.defaultConfig().Type() {
					level = slog.LevelInfo // nobody has asked for it
				}
				h.log.Log(h.ctx, level, "VMs of this hypervisor cannot be started", "hypervisor", t, "err", b.Err)
			}
		} else {
			c.found[t] = b
		}
		close(done)
	}
	c.looking[t] = done
	if !h.spawn(func() { finish(h.search(t)) }) {
		delete(c.looking, t)
		return nil
	}
	return done
}

func (h *Host) search(t hypervisor.Type) Backend {
	b := Backend{Type: t}
	s, ok := hypervisor.StarterFor(t)
	if !ok {
		b.Err = fmt.Errorf("machine: hypervisor %s: %w", t, hypervisor.ErrNotSupported)
		return b
	}
	if c, ok := s.(hypervisor.Capable); ok {
		b.Capabilities = c.Capabilities(hypervisor.VMConfig{})
	}
	if b.Binary, b.Err = s.GetBinaryPath(h.opts.Paths, ""); b.Err == nil {
		b.Version, b.Err = s.GetVersion(h.opts.Paths)
	}
	return b
}

func (c *backendCache) get(t hypervisor.Type) (Backend, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b, ok := c.found[t]; ok {
		return b, true
	}
	b, ok := c.failed[t]
	return b, ok
}

// capabilities returns what the back end says of a VM with this configuration, or
// where it cannot, what one of its VMs could that has run. It does not wait for the
// search for its program.
func (c *backendCache) capabilities(t hypervisor.Type, config hypervisor.VMConfig) hypervisor.Capabilities {
	if s, ok := hypervisor.StarterFor(t); ok {
		if able, ok := s.(hypervisor.Capable); ok {
			return able.Capabilities(config)
		}
	}
	b, _ := c.get(t)
	return b.Capabilities
}

// learn keeps what a running VM of the back end can do, for back ends that
// cannot say so before.
func (c *backendCache) learn(t hypervisor.Type, caps hypervisor.Capabilities) {
	s, ok := hypervisor.StarterFor(t)
	if ok {
		if _, ok := s.(hypervisor.Capable); ok {
			return
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if b, ok := c.found[t]; ok {
		b.Capabilities = caps
		c.found[t] = b
	}
}

// Backend returns what was found of a back end on this host. What was found is kept;
// what was not is looked for again, for which a slow or hung program is given 10 s, or
// until ctx ends.
func (h *Host) Backend(ctx context.Context, t hypervisor.Type) Backend {
	ctx, cancel := context.WithTimeoutCause(ctx, findTimeout, fmt.Errorf("it has not answered after %v: %w", findTimeout, context.DeadlineExceeded))
	defer cancel()
	if search := h.lookFor(t); search != nil {
		select {
		case <-search:
		case <-ctx.Done():
		}
	}
	if b, ok := h.backends.get(t); ok {
		return b
	}
	return Backend{Type: t, Err: fmt.Errorf("machine: hypervisor %s: cannot ask its program for its version: %w", t, waitErr(ctx))}
}

// waitErr says why a wait is over before its time.
func waitErr(ctx context.Context) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return ErrClosed
}
