package cloudhypervisor

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"unicode/utf8"

	"vmfs/backends/cloudhypervisor/api"
	"vmfs/backends/hostpci"
	"vmfs/backends/hypervisor"
	"vmfs/backends/starter"
)

// The names of the devices that the handle uses. Those of which there can be several have
// their number in the configuration behind.
const (
	idBalloon = "balloon0"
	idVsock   = "vsock0"
	idDisk    = "disk"
	idNetwork = "net"
	idPCI     = "pci"
)

const (
	// hotplugAlign is what the hot-plug area is rounded up to: virtio-mem in Cloud Hypervisor
	// takes no other size.
	hotplugAlign = int64(128) << 20
	// maxDevices is how many disks, networks and PCI devices a VM can have: the places of the one
	// PCI bus, less those of the bridge and of the devices that every VM may have.
	maxDevices = 32 - 6
	// maxThreads is how many threads a core can have in a topology.
	maxThreads = 2
)

// A plan is all that a VM is made of. Making one starts nothing.
type plan struct {
	config  hypervisor.VMConfig
	program starter.Program
	dir     runDir
	vm      *api.VMConfig // without its networks, which are added one by one: see VM.addNets
	// mode is how the memory is read of a VM that is restored; "" is one that is not.
	mode api.MemoryRestoreMode
}

// CheckConfig says what of a configuration Cloud Hypervisor can never run.
func (s *Starter) CheckConfig(config hypervisor.VMConfig) error {
	if err := check(&config); err != nil {
		return fmt.Errorf("cloud-hypervisor: %w", err)
	}
	return nil
}

func check(c *hypervisor.VMConfig) error {
	if err := c.Check(); err != nil {
		return err
	}
	if err := settingKeys.CheckAll(settingsPrefix, c.Extras); err != nil {
		return err
	}
	refuse := func(format string, args ...any) error {
		return fmt.Errorf(format+": %w", append(args, hypervisor.ErrNotSupported)...)
	}
	for i, n := range c.Networks {
		switch {
		case n.User:
			return refuse("network %d: Cloud Hypervisor has no network in user mode: use net=tap:NAME or net=bridge:NAME, or hypervisor=qemu", i)
		case n.Passt:
			return refuse("network %d: passt is not there for Cloud Hypervisor: use net=tap:NAME or net=bridge:NAME, or hypervisor=qemu", i)
		}
	}
	if t := c.Topology; t != nil {
		switch {
		case t.ThreadsPerCore > maxThreads:
			return refuse("a topology with %d threads to a core: Cloud Hypervisor has up to %d", t.ThreadsPerCore, maxThreads)
		case t.DiesPerPackage > 1 && runtime.GOARCH == "arm64":
			return refuse("a topology with %d dies to a package: CPUs of arm64 have no dies", t.DiesPerPackage)
		}
	}
	if n := len(c.Disks) + len(c.Networks) + len(c.PCIDevices); n > maxDevices {
		return refuse("%d disks, networks and PCI devices: Cloud Hypervisor's PCI bus has room for %d", n, maxDevices)
	}
	if c.KernelPath != "" && c.Extras[keyFirmware] != "" {
		return fmt.Errorf("a kernel and a firmware, of which Cloud Hypervisor boots one: leave out kernel or %s: %w", keyFirmware, hypervisor.ErrInvalid)
	}
	for _, text := range append(files(c), c.KernelArgs, c.SerialLogPath, c.VsockSocket) {
		if !utf8.ValidString(text) {
			return refuse("%q is not UTF-8, which is all that Cloud Hypervisor can be told", text)
		}
	}
	for _, d := range c.PCIDevices {
		if _, err := hostpci.Sysfs(d); err != nil {
			return err
		}
	}
	return nil
}

// needs says what is missing for a start: in the configuration, or on this host.
func (s *Starter) needs(c *hypervisor.VMConfig) error {
	if c.KernelPath == "" && c.Extras[keyFirmware] == "" {
		return fmt.Errorf("nothing to boot: Cloud Hypervisor has no firmware of its own: set kernel, or %s to that of a disk (CLOUDHV.fd, or hypervisor-fw): %w",
			keyFirmware, hypervisor.ErrInvalid)
	}
	if len(c.PCIDevices) > 0 && !s.pciUsable() {
		return hostpci.ErrNone
	}
	// Cloud Hypervisor says that a file is missing, but not which.
	for _, path := range files(c) {
		if _, err := os.Stat(path); err != nil {
			return err
		}
	}
	return nil
}

// files are those that Cloud Hypervisor opens.
func files(c *hypervisor.VMConfig) []string {
	paths := []string{c.KernelPath, c.InitrdPath, c.Extras[keyFirmware]}
	for _, d := range c.Disks {
		paths = append(paths, d.Path)
	}
	return slices.DeleteFunc(paths, func(path string) bool { return path == "" })
}

// vmConfig is a configuration as the API has it, but for the networks.
func vmConfig(dir runDir, c *hypervisor.VMConfig) (*api.VMConfig, error) {
	cpus := max(c.VCPUs, 1)
	vm := &api.VMConfig{
		CPUs:    api.CPUs{Boot: cpus, Max: cpus},
		Memory:  api.Memory{Size: c.MemoryBytes},
		Balloon: &api.Balloon{ID: idBalloon},
		Serial:  api.Console{Mode: api.ConsoleSocket, Socket: dir.serial(c).VMM},
		Console: api.Console{Mode: api.ConsoleOff},
		PVPanic: true,
	}
	if t := c.Topology; t != nil {
		vm.CPUs.Topology = &api.Topology{
			ThreadsPerCore: max(t.ThreadsPerCore, 1), CoresPerDie: max(t.CoresPerDie, 1),
			DiesPerPackage: max(t.DiesPerPackage, 1), Packages: max(t.Packages, 1),
		}
	}
	if c.HotplugBytes > 0 {
		vm.Memory.HotplugMethod = api.HotplugVirtioMem
		vm.Memory.HotplugSize = (c.HotplugBytes + hotplugAlign - 1) / hotplugAlign * hotplugAlign
	}
	if vm.Payload.Firmware = c.Extras[keyFirmware]; c.KernelPath != "" {
		vm.Payload = api.Payload{Kernel: c.KernelPath, Initramfs: c.InitrdPath, Cmdline: c.GuestArgs(serialPort())}
	}
	if c.UUID != "" {
		vm.Platform = &api.Platform{UUID: c.UUID}
	}
	for i, d := range c.Disks {
		vm.Disks = append(vm.Disks, apiDisk(i, d))
	}
	for i, d := range c.PCIDevices {
		path, err := hostpci.Sysfs(d)
		if err != nil {
			return nil, err
		}
		vm.Devices = append(vm.Devices, api.Device{ID: idPCI + strconv.Itoa(i), Path: path})
	}
	if c.VsockCID != 0 {
		vm.Vsock = &api.Vsock{ID: idVsock, CID: uint32(c.VsockCID), Socket: c.VsockSocket} // the CID was checked
	}
	return vm, nil
}

// serialPort is the guest's name of its serial port.
func serialPort() string {
	if runtime.GOARCH == "arm64" {
		return "ttyAMA0"
	}
	return "ttyS0"
}

// apiNet is the i-th network as the API has it. Its tap goes along as a descriptor. The
// addresses in the configuration are the guest's, and are its kernel's arguments: Cloud
// Hypervisor would give those that it is told to the host's tap.
func apiNet(c *hypervisor.VMConfig, i int) api.Net {
	return api.Net{ID: idNetwork + strconv.Itoa(i), MAC: c.MAC(i), NumQueues: 2}
}
