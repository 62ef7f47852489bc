package machine

import (
	"context"

	"vmfs/backends/hypervisor"
	"vmfs/machine/config"
)

// A size is one that a disk is to have.
type size struct {
	disk  int
	bytes int64
}

// newSizes returns the sizes that disks get by a change of their configuration. ok is
// whether it changes nothing else.
func newSizes(old, changed []hypervisor.DiskConfig) (sizes []size, ok bool) {
	if len(old) != len(changed) {
		return nil, false
	}
	for i, d := range changed {
		before := old[i]
		if d.Size != before.Size && d.Size != 0 {
			sizes = append(sizes, size{i, d.Size})
		}
		d.Size, before.Size = 0, 0
		if d != before {
			return nil, false
		}
	}
	return sizes, true
}

// growLive makes disks of a VM that runs larger. The sizes are in the configuration
// before, for a server that is killed in it: then the next start does the rest. Those
// of disks that did not grow are taken back.
func (v *VM) growLive(ctx context.Context, s *session, old config.Config, sizes []size) error {
	if len(sizes) == 0 {
		return nil
	}
	hv, err := s.handle(ctx)
	if err != nil {
		return err
	}
	g, ok := hv.(hypervisor.DiskGrower)
	if !ok {
		return hypervisor.ErrNotSupported
	}
	cfg := old
	for _, d := range sizes {
		cfg = cfg.DiskSized(d.disk, d.bytes)
	}
	if err := v.saveConfig(cfg); err != nil {
		return err
	}
	for i, d := range sizes {
		if err := g.GrowDisk(ctx, d.disk, d.bytes); err != nil {
			before := old.VMConfig().Disks
			for _, d := range sizes[i:] {
				cfg = cfg.DiskSized(d.disk, before[d.disk].Size)
			}
			if serr := v.saveConfig(cfg); serr != nil {
				v.host.log.Error("the config says a size that a disk did not get", "vm", v.name, "disk", d.disk, "err", serr)
			}
			return err
		}
	}
	return nil
}
