package cloudhypervisor

import (
	"fmt"
	"strconv"

	"vmfs/backends/cloudhypervisor/api"
	"vmfs/backends/hypervisor"
)

// apiDisk is the i-th disk as the API has it. The serial is its place in the configuration,
// as with QEMU.
func apiDisk(i int, d hypervisor.DiskConfig) (api.Disk, error) {
	if d.IOBps != 0 {
		return api.Disk{}, fmt.Errorf("limits of disks are not there for Cloud Hypervisor: %w", hypervisor.ErrNotSupported)
	}
	disk := api.Disk{ID: idDisk + strconv.Itoa(i), Path: d.Path, ReadOnly: d.Readonly, ImageType: api.ImageRaw, Serial: "disk" + strconv.Itoa(i)}
	if d.Format == hypervisor.DiskQCOW2 {
		disk.ImageType = api.ImageQcow2
	}
	return disk, nil
}
