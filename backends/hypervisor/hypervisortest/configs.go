package hypervisortest

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
)

// A ConfigCase is a change to a configuration that is otherwise whole.
type ConfigCase struct {
	Name string
	Make func(c *hypervisor.VMConfig)
	Says string // of a refusal
}

// network makes a configuration with one more network.
func network(n hypervisor.NetworkConfig) func(*hypervisor.VMConfig) {
	return func(c *hypervisor.VMConfig) { c.Networks = append(c.Networks, n) }
}

func disk(d hypervisor.DiskConfig) func(*hypervisor.VMConfig) {
	return func(c *hypervisor.VMConfig) { c.Disks = append(c.Disks, d) }
}

func pci(device string) func(*hypervisor.VMConfig) {
	return func(c *hypervisor.VMConfig) { c.PCIDevices = append(c.PCIDevices, device) }
}

func topology(vcpus int, t hypervisor.CPUTopology) func(*hypervisor.VMConfig) {
	return func(c *hypervisor.VMConfig) { c.VCPUs, c.Topology = vcpus, &t }
}

// InvalidConfigs are configurations that nobody takes: no back end, and not the text
// that users write either. Each is an ErrInvalid.
func InvalidConfigs() []ConfigCase {
	type vm = hypervisor.VMConfig
	return []ConfigCase{
		{"too little memory", func(c *vm) { c.MemoryBytes = hypervisor.MinMemory - hypervisor.MemoryStep }, "16777216"},
		{"negative memory", func(c *vm) { c.MemoryBytes = -1 }, "16777216"},
		{"odd memory", func(c *vm) { c.MemoryBytes = 500000000 }, "500170752"},
		{"too much memory", func(c *vm) { c.MemoryBytes = hypervisor.MaxMemory + hypervisor.MemoryStep }, "64 TiB"},
		{"negative hotplug", func(c *vm) { c.HotplugBytes = -1 }, "hotplug"},
		{"too much hotplug", func(c *vm) { c.HotplugBytes = hypervisor.MaxMemory }, "64 TiB"},
		{"a name of two lines", func(c *vm) { c.Name = "a\nb" }, "name"},
		{"no uuid", func(c *vm) { c.UUID = "no" }, `"no"`},
		{"NUL in a path", func(c *vm) { c.KernelPath = "/a\x00b" }, "NUL"},
		{"a path of two lines", func(c *vm) { c.SerialLogPath = "/a\nb" }, "line"},
		{"a relative path", func(c *vm) { c.KernelPath = "vmlinuz" }, "absolute"},
		{"a path that is too long", func(c *vm) { c.KernelPath = "/" + strings.Repeat("k", 4095) }, "4095"},
		{"an initrd alone", func(c *vm) { c.KernelPath, c.InitrdPath = "", "/i" }, "kernel"},
		{"arguments alone", func(c *vm) { c.KernelPath, c.InitrdPath, c.KernelArgs = "", "", "quiet" }, "kernel"},
		{"NUL in the arguments", func(c *vm) { c.KernelPath, c.KernelArgs = "/k", "a\x00b" }, "NUL"},
		{"negative vcpus", func(c *vm) { c.VCPUs = -1 }, "512"},
		{"too many vcpus", func(c *vm) { c.VCPUs = 513 }, "512"},
		{"a topology of others", topology(3, hypervisor.CPUTopology{CoresPerDie: 2}), "makes 2 CPUs and vcpus is 3"},
		{"a negative topology", topology(1, hypervisor.CPUTopology{CoresPerDie: -1, Packages: -1}), "topology"},
		{"too many disks", func(c *vm) { c.Disks = slices.Repeat([]hypervisor.DiskConfig{{Path: "/d"}}, 65) }, "65 disks"},
		{"too many networks", func(c *vm) { c.Networks = slices.Repeat([]hypervisor.NetworkConfig{{User: true}}, 65) }, "65 networks"},
		{"too many PCI devices", func(c *vm) { c.PCIDevices = slices.Repeat([]string{"0000:01:00.0"}, 57) }, "57 PCI devices"},
		{"disk without a path", disk(hypervisor.DiskConfig{}), "path"},
		{"disk by a relative path", disk(hypervisor.DiskConfig{Path: "disk.img"}), "absolute"},
		{"disk format", disk(hypervisor.DiskConfig{Path: "/d", Format: "vmdk"}), "vmdk"},
		{"negative limit", disk(hypervisor.DiskConfig{Path: "/d", IOBps: -1}), "below 0"},
		{"burst alone", disk(hypervisor.DiskConfig{Path: "/d", IOBurstBps: 1}), "bps"},
		{"burst below the limit", disk(hypervisor.DiskConfig{Path: "/d", IOBps: 2, IOBurstBps: 1}), "bps"},
		{"no kind of network", network(hypervisor.NetworkConfig{}), "one of"},
		{"two kinds of network", network(hypervisor.NetworkConfig{User: true, Passt: true}), "one of"},
		{"tap and bridge", network(hypervisor.NetworkConfig{TAPDevice: "t", Bridge: "b"}), "one of"},
		{"tap with a long name", network(hypervisor.NetworkConfig{TAPDevice: "averyverylongname"}), "interface name"},
		{"tap with a slash", network(hypervisor.NetworkConfig{TAPDevice: "a/b"}), "interface name"},
		{"tap with a colon", network(hypervisor.NetworkConfig{TAPDevice: "eth0:1"}), "interface name"},
		{"bridge ..", network(hypervisor.NetworkConfig{Bridge: ".."}), "interface name"},
		{"bridge with a blank", network(hypervisor.NetworkConfig{Bridge: "a b"}), "interface name"},
		{"multicast", network(hypervisor.NetworkConfig{User: true, MAC: "01:00:5e:00:00:01"}), "01:00:5e:00:00:01"},
		{"MAC of zeros", network(hypervisor.NetworkConfig{User: true, MAC: "00:00:00:00:00:00"}), "MAC"},
		{"MAC of eight bytes", network(hypervisor.NetworkConfig{User: true, MAC: "02:00:5e:10:00:00:00:01"}), "MAC"},
		{"address of a user network", network(hypervisor.NetworkConfig{User: true, IP: "192.0.2.1", Netmask: "255.255.255.0"}), "its own addresses"},
		{"address of passt", network(hypervisor.NetworkConfig{Passt: true, IP: "192.0.2.1", Netmask: "255.255.255.0"}), "its own addresses"},
		{"IPv6 address", network(hypervisor.NetworkConfig{TAPDevice: "t", IP: "fe80::1", Netmask: "255.0.0.0"}), "IPv4"},
		{"address without a netmask", network(hypervisor.NetworkConfig{TAPDevice: "t", IP: "192.0.2.1"}), "netmask"},
		{"netmask without an address", network(hypervisor.NetworkConfig{Bridge: "b", Netmask: "255.0.0.0"}), "netmask"},
		{"netmask with a hole", network(hypervisor.NetworkConfig{TAPDevice: "t", IP: "1.2.3.4", Netmask: "255.0.255.0"}), "255.0.255.0"},
		{"netmask of zeros", network(hypervisor.NetworkConfig{TAPDevice: "t", IP: "1.2.3.4", Netmask: "0.0.0.0"}), "0.0.0.0"},
		{"a tap's forwards", network(hypervisor.NetworkConfig{TAPDevice: "t", Forwards: []string{"tcp::1:1"}}), "forward"},
		{"a bridge's forwards", network(hypervisor.NetworkConfig{Bridge: "b", Forwards: []string{"tcp::1:1"}}), "forward"},
		{"a forward from a name", network(hypervisor.NetworkConfig{User: true, Forwards: []string{"tcp:h:1:1"}}), "tcp:h:1:1"},
		{"a forward from port 0", network(hypervisor.NetworkConfig{Passt: true, Forwards: []string{"tcp::0:1"}}), "tcp::0:1"},
		{"a user network's IPv6", network(hypervisor.NetworkConfig{User: true, Forwards: []string{"tcp:[::1]:1:1"}}), "IPv4 only"},
		{"pci elsewhere", pci("/etc/passwd"), "/etc/passwd"},
		{"pci out of /sys", pci("/sys/../etc/passwd"), "/sys/../etc/passwd"},
		{"pci slot", pci("0000:01:20.0"), "0000:01:20.0"},
		{"cid", func(c *vm) { c.VsockCID = 2 }, "3 to"},
		{"cid of all", func(c *vm) { c.VsockCID = 1<<32 - 1 }, "3 to"},
		{"negative cid", func(c *vm) { c.VsockCID = -2 }, "3 to"},
		{"a vsock without a cid", func(c *vm) { c.VsockCID, c.VsockSocket = 0, "/s" }, "3 to"},
		{"a long vsock socket", func(c *vm) { c.VsockCID, c.VsockSocket = 3, "/"+strings.Repeat("s", hypervisor.MaxVsockSocket) }, "too many"},
	}
}

// OddConfigs are configurations that everybody takes as far as the configuration
// goes: a back end may lack the capability, or the host what they name.
func OddConfigs() []ConfigCase {
	type vm = hypervisor.VMConfig
	return []ConfigCase{
		{Name: "least memory", Make: func(c *vm) { c.MemoryBytes = hypervisor.MinMemory }},
		{Name: "odd hotplug", Make: func(c *vm) { c.HotplugBytes = 512<<20 + 1 }},
		{Name: "most memory", Make: func(c *vm) { c.MemoryBytes, c.HotplugBytes = hypervisor.MaxMemory-4<<20, 4<<20 }},
		{Name: "odd paths", Make: func(c *vm) { c.KernelPath, c.InitrdPath = "/k,x=#1 'a' \"b\"", "/i\t\x01\xff,," }},
		{Name: "odd arguments", Make: func(c *vm) { c.KernelPath, c.KernelArgs = "/k", `a="b c", 'd' # e` }},
		{Name: "most vcpus", Make: topology(512, hypervisor.CPUTopology{ThreadsPerCore: 2, CoresPerDie: 64, DiesPerPackage: 1, Packages: 4})},
		{Name: "odd tap", Make: network(hypervisor.NetworkConfig{TAPDevice: "a,b=c'd", MAC: "02-00-5E-10-00-0A"})},
		{Name: "bridge", Make: network(hypervisor.NetworkConfig{Bridge: "br0", IP: "192.0.2.7", Netmask: "255.255.255.255"})},
		{Name: "passt", Make: network(hypervisor.NetworkConfig{Passt: true, Forwards: []string{"tcp:[::1]:80:80", "udp:[::ffff:1.2.3.4]:1:1", "tcp::65535:1"}})},
		{Name: "user", Make: network(hypervisor.NetworkConfig{User: true, Forwards: []string{"tcp:127.0.0.1:80:80"}})},
		{Name: "many networks", Make: func(c *vm) { c.Networks = slices.Repeat([]hypervisor.NetworkConfig{{User: true}}, 64) }},
		{Name: "many PCI devices", Make: func(c *vm) { c.PCIDevices = slices.Repeat([]string{"0000:01:00.0"}, 56) }},
		{Name: "pci", Make: pci("01:00.0")},
		{Name: "mdev", Make: pci("83B8F4F2-509f-382f-3c1e-e6bfe0fa1001")},
		{Name: "pci by /sys", Make: pci("/sys/bus/pci/devices/../devices/0000:02:00.0")},
		{Name: "vsock", Make: func(c *vm) {
			c.VsockCID, c.VsockSocket = 4294967294, "/"+strings.Repeat("s", hypervisor.MaxVsockSocket-1)
		}},
	}
}

// FuzzConfigs has use look at configurations, most of which are invalid.
func FuzzConfigs(f *testing.F, use func(t *testing.T, c hypervisor.VMConfig)) {
	f.Add(int64(512<<20), int64(0), 2, 1, 0, "/k", "/i", "quiet", "", "", "vm0", "", "02:00:00:00:00:01", "192.0.2.7", "255.255.255.0", "", "01:00.0", int64(3), "/s")
	f.Add(int64(16<<20), int64(1), 1, 0, 1, "", "", "", "web", "5a0e6d3c-1111-4222-8333-444455556666", "", "br0", "", "", "", "", "/sys/a/../b", int64(0), "")
	f.Add(int64(1<<46), int64(0), 0, 0, 2, "/k,", "/'", "#", "", "", "", "", "", "", "", "tcp:127.0.0.1:1:2", "", int64(-1), "")
	f.Add(int64(1<<30), int64(0), 4, 4, 3, "/k", "", "", "", "", "", "", "", "", "", "udp:[::1]:1:2", "", int64(1<<32-2), "/s,")
	f.Fuzz(func(t *testing.T, memory, hotplug int64, vcpus, cores, kind int, kernel, initrd, args, name, uuid,
		tap, bridge, mac, ip, mask, forward, device string, cid int64, socket string) {
		c := hypervisor.VMConfig{
			MemoryBytes: memory, HotplugBytes: hotplug, VCPUs: vcpus, KernelPath: kernel, InitrdPath: initrd, KernelArgs: args,
			Name: name, UUID: uuid, VsockCID: cid, VsockSocket: socket,
			Networks: []hypervisor.NetworkConfig{{TAPDevice: tap, Bridge: bridge, User: kind&3 == 2, Passt: kind&3 == 3, MAC: mac, IP: ip, Netmask: mask}},
		}
		if cores != 0 {
			c.Topology = &hypervisor.CPUTopology{CoresPerDie: cores}
		}
		if forward != "" {
			c.Networks[0].Forwards = []string{forward}
		}
		if device != "" {
			c.PCIDevices = []string{device}
		}
		use(t, c)
	})
}

// testInvalidConfigs checks that no VM starts with what makes no sense.
func (s *suite) testInvalidConfigs(t *testing.T) {
	for _, bad := range InvalidConfigs() {
		t.Run(bad.Name, func(t *testing.T) {
			dir := s.dir(t)
			config := s.config(t, dir)
			bad.Make(&config)
			pid, hv, err := s.b.Starter.StartVM(s.ctx(t), s.b.Paths, "", s.socket(dir), config)
			s.expectNothing(t, dir, pid, hv, err)
			require.ErrorIs(t, err, hypervisor.ErrInvalid)
			assert.ErrorContains(t, err, bad.Says)
		})
	}
}
