package qemu

import (
	"fmt"
	"strconv"
	"strings"

	"vmfs/backends/hypervisor"
)

// A layout is where a VM's devices are on its PCI bus, by number. The guest knows its
// devices by that, and so does what is saved of them: a VM is restored in the layout
// that it was started in. A layout is never changed; a new one gets the next number.
type layout int

const (
	// layoutByOrder is where QEMU puts them: each kind behind the one before on the
	// command line, so that a disk more is another place for every network. It has no
	// serials of disks.
	layoutByOrder layout = iota
	// layoutFixed has a place for each, whatever else there is.
	layoutFixed

	newestLayout = layoutFixed
)

// The slots of layoutFixed on the bus pcie.0. Slot 0 and, on q35, 31 are the
// chipset's. Of disks, networks, the host's devices and free ports there are eight
// to a slot, so that Linux finds each kind in the order of the configuration.
const (
	slotRNG      = 1
	slotBalloon  = 2
	slotHotplug  = 3 // virtio-mem
	slotWatchdog = 4
	slotPanic    = 5 // where that is a PCI device
	slotVsock    = 6
	slotFree     = 7 // ports that nothing is in yet
	slotDisks    = 8
	slotNetworks = 16
	slotPCI      = 24
	slotEnd      = 31

	perSlot   = 8
	freePorts = perSlot // they cost a start no time that could be measured
)

// layout is that of a new VM: machines other than the usual may have another bus.
func (a *arch) layout(machine string) layout {
	if strings.Contains(machine, a.machine) {
		return layoutFixed
	}
	return layoutByOrder
}

// There is a place for all that a configuration can have.
const (
	_ = uint((slotNetworks-slotDisks)*perSlot - hypervisor.MaxDisks)
	_ = uint((slotPCI-slotNetworks)*perSlot - hypervisor.MaxNetworks)
	_ = uint((slotEnd-slotPCI)*perSlot - hypervisor.MaxPCIDevices)
)

// place puts a device that is alone of its kind into its slot.
func (p *plan) place(device *option, slot int) *option {
	if p.layout == layoutByOrder {
		return device
	}
	return device.set("bus", "pcie.0").set("addr", fmt.Sprintf("%#x", slot))
}

// placeOf puts the device i of its kind into one of the slots from slot on.
func (p *plan) placeOf(device *option, slot, i int) *option {
	if p.layout == layoutByOrder {
		return device
	}
	device.set("bus", "pcie.0").set("addr", fmt.Sprintf("%#x.%d", slot+i/perSlot, i%perSlot))
	if i%perSlot == 0 {
		device.on("multifunction", true)
	}
	return device
}

// freePorts makes the ports that nothing is in yet. QEMU cannot add them to a VM
// that runs.
func (p *plan) freePorts(a *commandLine) {
	if p.layout == layoutByOrder {
		return
	}
	for i := range freePorts {
		n := int64(i + 2) // the vsock device's is 1
		a.opt("device", p.placeOf(opt("pcie-root-port").set("id", "port"+strconv.Itoa(i)).num("chassis", n).num("slot", n), slotFree, i))
	}
}
