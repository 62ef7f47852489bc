package cloudhypervisor

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/backends/hypervisor/hypervisortest"
)

// testDir is the run-time directory dir.
func testDir(t *testing.T, dir string) runDir {
	t.Helper()
	d, err := dirOf(filepath.Join(dir, SocketName))
	require.NoError(t, err)
	return d
}

func TestVMConfig(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the guest's console has another name")
	}
	for name, c := range map[string]struct {
		config hypervisor.VMConfig
		want   string
	}{
		"least": {
			hypervisor.VMConfig{MemoryBytes: 64 << 20, KernelPath: "/k"},
			`{"cpus":{"boot_vcpus":1,"max_vcpus":1},"memory":{"size":67108864},"payload":{"kernel":"/k","cmdline":"console=ttyS0"},
			"balloon":{"id":"balloon0","size":0},"serial":{"mode":"Socket","socket":"/run/web/serial.sock"},"console":{"mode":"Off"},"pvpanic":true}`,
		},
		"everything": {
			hypervisor.VMConfig{
				Name: "web", UUID: "5a0e6d3c-1111-4222-8333-444455556666", VCPUs: 4,
				Topology: &hypervisor.CPUTopology{ThreadsPerCore: 2, CoresPerDie: 2}, MemoryBytes: 1 << 30, HotplugBytes: 1<<30 + 1,
				KernelPath: "/k", InitrdPath: "/i", KernelArgs: "quiet", SerialLogPath: "/srv/console.log",
				VsockCID: 4294967294, VsockSocket: "/run/web/vsock.sock", PCIDevices: []string{"01:00.0", "83B8F4F2-509f-382f-3c1e-e6bfe0fa1001"},
				Disks: []hypervisor.DiskConfig{{Path: "/a.img", IOBps: 10 << 20, IOBurstBps: 30 << 20}, {Path: "/b.qcow2", Format: hypervisor.DiskQCOW2, Readonly: true}},
				// Networks are added apart from this. Their addresses are the guest's.
				Networks: []hypervisor.NetworkConfig{{TAPDevice: "tap0", IP: "192.0.2.7", Netmask: "255.255.255.0"}, {Bridge: "br0"}},
			},
			`{"cpus":{"boot_vcpus":4,"max_vcpus":4,"topology":{"threads_per_core":2,"cores_per_die":2,"dies_per_package":1,"packages":1}},
			"memory":{"size":1073741824,"hotplug_size":1207959552,"hotplug_method":"VirtioMem"},
			"payload":{"kernel":"/k","initramfs":"/i","cmdline":"console=ttyS0 ip=192.0.2.7:::255.255.255.0::eth0:off quiet"},
			"disks":[{"id":"disk0","path":"/a.img","image_type":"Raw","backing_files":false,"serial":"disk0",
			"rate_limiter_config":{"bandwidth":{"size":31457280,"refill_time":3000}}},
			{"id":"disk1","path":"/b.qcow2","readonly":true,"image_type":"Qcow2","backing_files":false,"serial":"disk1"}],
			"balloon":{"id":"balloon0","size":0},"serial":{"mode":"Socket","socket":"/run/web/serial.sock"},"console":{"mode":"Off"},
			"devices":[{"id":"pci0","path":"/sys/bus/pci/devices/0000:01:00.0"},{"id":"pci1","path":"/sys/bus/mdev/devices/83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"}],
			"vsock":{"id":"vsock0","cid":4294967294,"socket":"/run/web/vsock.sock"},"pvpanic":true,"platform":{"system_uuid":"5a0e6d3c-1111-4222-8333-444455556666"}}`,
		},
		"firmware": {
			hypervisor.VMConfig{MemoryBytes: 64 << 20, Extras: map[string]string{keyFirmware: "/fw", "qemu.accel": "kvm"}},
			`{"cpus":{"boot_vcpus":1,"max_vcpus":1},"memory":{"size":67108864},"payload":{"firmware":"/fw"},
			"balloon":{"id":"balloon0","size":0},"serial":{"mode":"Socket","socket":"/run/web/serial.sock"},"console":{"mode":"Off"},"pvpanic":true}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, check(&c.config))
			vm, err := vmConfig(testDir(t, "/run/web"), &c.config)
			require.NoError(t, err)
			got, err := json.Marshal(vm)
			require.NoError(t, err)
			assert.JSONEq(t, c.want, string(got))
		})
	}
}

// TestNetworksAreTold has no address of the guest's: Cloud Hypervisor would set it on the host's
// tap.
func TestNetworksAreTold(t *testing.T) {
	c := hypervisor.VMConfig{Networks: []hypervisor.NetworkConfig{{TAPDevice: "t", MAC: "02-00-5E-10-00-0A", IP: "192.0.2.7", Netmask: "255.255.255.0"}, {Bridge: "b"}}}
	got, err := json.Marshal(apiNet(&c, 0))
	require.NoError(t, err)
	assert.JSONEq(t, `{"id":"net0","mac":"02:00:5e:10:00:0a","num_queues":2}`, string(got))
	assert.Equal(t, c.MAC(1), apiNet(&c, 1).MAC)
}

func TestConfigs(t *testing.T) {
	whole := hypervisor.VMConfig{MemoryBytes: 512 << 20, KernelPath: "/k"}
	s := New(Config{})
	for _, c := range hypervisortest.InvalidConfigs() {
		config := whole
		c.Make(&config)
		err := s.CheckConfig(config)
		require.ErrorIs(t, err, hypervisor.ErrInvalid, c.Name)
		assert.ErrorContains(t, err, c.Says, c.Name)
	}
	lacks := []string{"user", "passt", "many networks", "many PCI devices", "odd paths"}
	for _, c := range hypervisortest.OddConfigs() {
		config := whole
		c.Make(&config)
		if err := s.CheckConfig(config); slices.Contains(lacks, c.Name) {
			assert.ErrorIs(t, err, hypervisor.ErrNotSupported, c.Name)
		} else {
			assert.NoError(t, err, c.Name)
		}
	}
}

// TestRefusals are of what makes sense, and Cloud Hypervisor cannot do.
func TestRefusals(t *testing.T) {
	s := New(Config{})
	for says, change := range map[string]func(c *hypervisor.VMConfig){
		"no network in user mode": func(c *hypervisor.VMConfig) { c.Networks = []hypervisor.NetworkConfig{{User: true}} },
		"network 1: passt": func(c *hypervisor.VMConfig) {
			c.Networks = []hypervisor.NetworkConfig{{Bridge: "b"}, {Passt: true}}
		},
		"4 threads to a core": func(c *hypervisor.VMConfig) {
			c.VCPUs, c.Topology = 4, &hypervisor.CPUTopology{ThreadsPerCore: 4}
		},
		"room for 26": func(c *hypervisor.VMConfig) { c.Disks = slices.Repeat([]hypervisor.DiskConfig{{Path: "/d"}}, 27) },
		"boots one":   func(c *hypervisor.VMConfig) { c.Extras = map[string]string{keyFirmware: "/f"} },
		"unknown setting cloud-hypervisor.acel": func(c *hypervisor.VMConfig) {
			c.Extras = map[string]string{"cloud-hypervisor.acel": "kvm"}
		},
		"UTF-8": func(c *hypervisor.VMConfig) { c.Disks = []hypervisor.DiskConfig{{Path: "/\xff"}} },
	} {
		config := hypervisor.VMConfig{MemoryBytes: 512 << 20, KernelPath: "/k"}
		require.NoError(t, s.CheckConfig(config))
		change(&config)
		err := s.CheckConfig(config)
		require.Error(t, err, says)
		assert.ErrorContains(t, err, says)
	}
}

// TestNeeds are what may come until a VM starts.
func TestNeeds(t *testing.T) {
	s := New(Config{})
	s.pciUsable = func() bool { return false }
	kernel := filepath.Join(t.TempDir(), "vmlinuz")
	require.NoError(t, os.WriteFile(kernel, nil, 0o600))
	for says, c := range map[string]hypervisor.VMConfig{
		"nothing to boot":      {},
		"no IOMMU":             {KernelPath: kernel, PCIDevices: []string{"0000:01:00.0"}},
		"/no/vmlinuz":          {KernelPath: "/no/vmlinuz"},
		"/no/initrd":           {KernelPath: kernel, InitrdPath: "/no/initrd"},
		"/no/fw":               {Extras: map[string]string{keyFirmware: "/no/fw"}},
		"stat /no/disk: no su": {KernelPath: kernel, Disks: []hypervisor.DiskConfig{{Path: "/no/disk"}}},
	} {
		c.MemoryBytes = 512 << 20
		require.NoError(t, s.CheckConfig(c), says)
		assert.ErrorContains(t, s.needs(&c), says)
	}
	assert.NoError(t, s.needs(&hypervisor.VMConfig{KernelPath: kernel}))
}

func FuzzConfigs(f *testing.F) {
	s := New(Config{})
	hypervisortest.FuzzConfigs(f, func(t *testing.T, c hypervisor.VMConfig) {
		if s.CheckConfig(c) != nil {
			return
		}
		_, err := vmConfig(testDir(t, "/run/web"), &c)
		require.NoError(t, err, "what was taken is what can be said")
	})
}
