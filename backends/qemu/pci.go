package qemu

import (
	"strconv"

	"vmfs/backends/hostpci"
	"vmfs/backends/hypervisor"
)

// pci passes devices of the host to the guest.
func (p *plan) pci(a *commandLine) error {
	if len(p.config.PCIDevices) > 0 && !p.host.iommuUsed() {
		return hostpci.ErrNone
	}
	for i, d := range p.config.PCIDevices {
		address, dir, err := hypervisor.PCIDevice(d)
		if err != nil {
			return err
		}
		a.opt("device", p.placeOf(opt("vfio-pci").set("id", "pci"+strconv.Itoa(i)).setIf("host", address).setIf("sysfsdev", dir), slotPCI, i))
	}
	return nil
}
