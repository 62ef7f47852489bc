package sim

import (
	"context"
	"fmt"
	"slices"
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
		if index < 0 || index >= len(vm.disks) {
			return fmt.Errorf("there is no disk %d: %w", index, hypervisor.ErrInvalid)
		}
		disks := slices.Clone(vm.disks)
		disks[index].Size = bytes
		if err := disk.Fit(ctx, disks[index:index+1]); err != nil {
			return err
		}
		vm.disks = disks
		return nil
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
