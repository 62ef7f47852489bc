package machine

import (
	"context"
	"errors"
	"fmt"
	"os"

	"vmfs/internal/durable"
	"vmfs/machine/events"
)

// Delete removes the VM that has the name: see VM.Delete.
func (h *Host) Delete(ctx context.Context, name string) error {
	v, ok := h.VM(name)
	if !ok {
		return fmt.Errorf("machine: delete %s: %w", name, ErrNotFound)
	}
	return v.Delete(ctx)
}

// Delete removes the VM, which does not run, with its configuration, its
// snapshots and its logs. The error is ErrNotFound, or hypervisor.ErrBusy while
// it runs or a command is under way.
func (v *VM) Delete(ctx context.Context) error {
	return v.run(ctx, "delete", v.host.opts.Timeouts.Stop+v.host.opts.Timeouts.Verb, func(ctx context.Context) error {
		if err := v.awaitEnd(ctx); err != nil {
			return err
		}
		h := v.host
		v.disk.Lock()
		defer v.disk.Unlock()
		if err := h.remove(ctx, v.dir); err != nil {
			return err
		}
		v.emit(events.Event{Kind: events.KindDeleted})
		v.update(func() { v.deleted = true })
		v.console.Close()
		h.forget(v)
		return nil
	})
}

// remove removes a directory. It is out of sight at once; to take it away may take
// long, and goes on when ctx has ended.
func (h *Host) remove(ctx context.Context, dir string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	aside, err := durable.TakeAside(dir)
	if aside == "" {
		return err
	}
	done := make(chan struct{})
	if !h.spawn(func() {
		defer close(done)
		if err := errors.Join(err, os.RemoveAll(aside)); err != nil {
			// The rest goes at the next start of a server.
			h.log.Warn("cannot remove all of a deleted directory", "dir", dir, "err", err)
		}
	}) {
		return nil
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
	return nil
}

func (h *Host) forget(v *VM) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.vms[v.name] != v {
		return
	}
	delete(h.vms, v.name)
	sorted := make([]*VM, 0, len(h.sorted))
	for _, o := range h.sorted {
		if o != v {
			sorted = append(sorted, o)
		}
	}
	h.gen++
	h.sorted = sorted
}
