package qemu

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"vmfs/backends/hypervisor"
)

var (
	pciAddress = regexp.MustCompile(`^([0-9a-fA-F]{4}:)?[0-9a-fA-F]{2}:[0-1][0-9a-fA-F]\.[0-7]$`)
	mdevID     = uuidForm
)

// pci passes devices of the host to the guest. Each is named by its address
// (0000:01:00.0 or 01:00.0), its directory in /sys, or, for a mediated device, its
// UUID.
func (p *plan) pci(a *commandLine) error {
	if len(p.config.PCIDevices) == 0 {
		return nil
	}
	if !p.host.iommuUsed() {
		return fmt.Errorf("pci: this host has no IOMMU that vfio could use (/sys/kernel/iommu_groups, /dev/vfio): %w", hypervisor.ErrNotSupported)
	}
	for i, d := range p.config.PCIDevices {
		o := opt("vfio-pci").set("id", "pci"+strconv.Itoa(i))
		switch {
		case pciAddress.MatchString(d):
			if strings.Count(d, ":") == 1 {
				d = "0000:" + d
			}
			o.set("host", d)
		case mdevID.MatchString(d):
			o.set("sysfsdev", "/sys/bus/mdev/devices/"+strings.ToLower(d))
		case filepath.IsAbs(d) && strings.HasPrefix(filepath.Clean(d), "/sys/"):
			o.set("sysfsdev", filepath.Clean(d))
		default:
			return fmt.Errorf("pci %q: want an address such as 0000:01:00.0, a directory in /sys, or the UUID of a mediated device: %w", d, hypervisor.ErrInvalid)
		}
		a.opt("device", o)
	}
	return nil
}
