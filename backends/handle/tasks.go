package handle

import (
	"context"
	"fmt"

	"vmfs/backends/disk"
	"vmfs/backends/hypervisor"
	"vmfs/backends/rundir"
	"vmfs/backends/snapshot"
)

// Saver returns how the VM's snapshots are taken, of a VMM that is told by stop to have its VM
// stand still, and by goOn to let it go on.
func (h *Handle) Saver(stop, goOn func(context.Context) error) *snapshot.Saver {
	return &snapshot.Saver{
		Log: h.Log, Gate: &h.Gate, Life: h.Life, Hold: h.Hold, Stop: stop, Go: goOn,
		Spawn: func(f func()) error {
			if !h.Spawn(f) {
				return ErrClosed
			}
			return nil
		},
	}
}

// Grow makes a disk larger. See hypervisor.DiskGrower; order has the VMM do its part.
func (h *Handle) Grow(ctx context.Context, index int, bytes int64, order func() error) error {
	release, err := h.Gate.Enter(ctx, "a disk is being made larger", true) // a snapshot copies the image
	if err != nil {
		return err
	}
	defer release()
	rec, err := h.Known()
	if err != nil {
		return fmt.Errorf("%w: %w", err, hypervisor.ErrNotSupported)
	}
	disks, err := disk.Grow(rec.Config.Disks, index, bytes, order)
	if err == nil {
		h.change(func(r *rundir.Record) { r.Config.Disks = disks })
	}
	return err
}

// Target sets a target of the guest's memory, by set, which returns it rounded. It waits for what
// keeps that out: two at once must not be mixed.
func (h *Handle) Target(ctx context.Context, bytes int64, set func(context.Context, int64) (int64, error)) (int64, error) {
	if err := h.Gate.Pass(ctx); err != nil {
		return 0, err
	}
	select {
	case h.target <- struct{}{}:
		defer func() { <-h.target }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	return set(ctx, bytes)
}

// Vsock returns the configuration of a VM that has a vsock device.
func (h *Handle) Vsock() (*hypervisor.VMConfig, error) {
	rec, err := h.Known()
	if err != nil {
		return nil, err
	}
	if rec.Config.VsockCID == 0 {
		return nil, hypervisor.ErrNotSupported
	}
	return &rec.Config.VMConfig, nil
}
