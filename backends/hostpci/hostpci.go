// Package hostpci is the host's PCI and mediated devices, which a VM can have for itself,
// for any back end.
//
// The package imports the standard library and package hypervisor.
package hostpci

import (
	"fmt"
	"os"

	"vmfs/backends/hypervisor"
)

// ErrNone means that this host can give no device to a guest.
var ErrNone = fmt.Errorf("pci: this host has no IOMMU that vfio could use (/sys/kernel/iommu_groups, /dev/vfio): %w", hypervisor.ErrNotSupported)

// Usable tells whether the host has IOMMU groups, and vfio.
func Usable() bool { return hasEntries("/sys/kernel/iommu_groups") && hasEntries("/dev/vfio") }

func hasEntries(dir string) bool {
	entries, err := os.ReadDir(dir)
	return err == nil && len(entries) > 0
}

// Sysfs returns the directory in /sys of one of VMConfig.PCIDevices.
func Sysfs(device string) (string, error) {
	address, dir, err := hypervisor.PCIDevice(device)
	if err == nil && dir == "" {
		dir = "/sys/bus/pci/devices/" + address
	}
	return dir, err
}
