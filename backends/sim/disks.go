package sim

import (
	"context"
	"strconv"

	"vmfs/backends/disk"
	"vmfs/backends/hypervisor"
)

// GrowDisk makes the image larger, which is all that there is of a disk.
func (h *Handle) GrowDisk(ctx context.Context, index int, bytes int64) error {
	vm := h.vm
	return h.call(ctx, VerbDisk, true, func() error {
		if err := vm.alive(); err != nil {
			return err
		}
		disks, err := disk.Grow(vm.disks, index, bytes, func() error {
			d := vm.disks[index]
			d.Size = bytes
			return disk.Fit(ctx, []hypervisor.DiskConfig{d})
		})
		if err == nil {
			vm.disks = disks
		}
		return err
	})
}

// diskSize is what the guest sees of a disk. vm.mu is held.
func (vm *VM) diskSize(number string) string {
	n, err := strconv.Atoi(number)
	if err != nil || n < 0 || n >= len(vm.disks) {
		return "disk: no disk " + strconv.Quote(number)
	}
	size, err := disk.Size(vm.disks[n].Path, vm.disks[n].Format)
	if err != nil {
		return "disk: " + err.Error()
	}
	return strconv.FormatInt(size, 10)
}
