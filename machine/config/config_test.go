package config

import (
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/backends/hypervisor/hypervisortest"
	"vmfs/internal/printable"
)

const full = `hypervisor=qemu
vcpus=4
topology=packages:1,dies:1,cores:2,threads:2
memory=1G
hotplug=2G
kernel=/boot/vmlinuz
initrd='/boot/my initrd'
args='console=ttyS0 root="/dev/vda" x=it''s'
disk=path:/srv/a,,b.img,format:raw,readonly:yes,bps:10M,burst:20M
disk=path:/srv/c.qcow2,format:qcow2,size:20G
net=tap:vm0,mac:52:54:00:12:34:56,ip:192.0.2.7,netmask:255.255.255.0
net=user,forward:tcp:127.0.0.1:2222:22,forward:udp::5353:53
net=passt,mac:52:54:00:12:34:57,forward:tcp::8080:80,forward:tcp:[::1]:8080:80
net=bridge:br0
pci=0000:01:00.0
pci=/sys/bus/mdev/devices/83b8f4f2-509f-382f-3c1e-e6bfe0fa1001
vsock.cid=42
vsock.socket=/run/web.vsock
serial.log=/var/log/web.console
qemu.accel=tcg
qemu.machine=q35
`

func TestFull(t *testing.T) {
	c, err := Parse(full)
	require.NoError(t, err)
	assert.Equal(t, full, c.String(), "what is printed is what was written")
	vm := c.VMConfig()
	assert.Equal(t, hypervisor.VMConfig{
		VCPUs: 4, MemoryBytes: 1 << 30, HotplugBytes: 2 << 30,
		Topology:   &hypervisor.CPUTopology{Packages: 1, DiesPerPackage: 1, CoresPerDie: 2, ThreadsPerCore: 2},
		KernelPath: "/boot/vmlinuz", InitrdPath: "/boot/my initrd", KernelArgs: `console=ttyS0 root="/dev/vda" x=it's`,
		Disks: []hypervisor.DiskConfig{
			{Path: "/srv/a,b.img", Readonly: true, IOBps: 10 << 20, IOBurstBps: 20 << 20, Format: hypervisor.DiskRaw},
			{Path: "/srv/c.qcow2", Format: hypervisor.DiskQCOW2, Size: 20 << 30},
		},
		Networks: []hypervisor.NetworkConfig{
			{TAPDevice: "vm0", MAC: "52:54:00:12:34:56", IP: "192.0.2.7", Netmask: "255.255.255.0"},
			{User: true, Forwards: []string{"tcp:127.0.0.1:2222:22", "udp::5353:53"}},
			{Passt: true, MAC: "52:54:00:12:34:57", Forwards: []string{"tcp::8080:80", "tcp:[::1]:8080:80"}},
			{Bridge: "br0"},
		},
		PCIDevices: []string{"0000:01:00.0", "/sys/bus/mdev/devices/83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"},
		VsockCID:   42, VsockSocket: "/run/web.vsock", SerialLogPath: "/var/log/web.console",
		Extras: map[string]string{"qemu.accel": "tcg", "qemu.machine": "q35"},
	}, vm)

	vm.Disks[0].Path, vm.Extras["qemu.accel"], vm.Networks[1].Forwards[0] = "x", "x", "x"
	assert.Equal(t, full, c.String(), "VMConfig's caller owns the result")
}

func TestMerge(t *testing.T) {
	c, err := Parse("disk=path:/a\nkernel=/k\nargs=console=ttyS0 quiet # said the user\nqemu.accel=tcg")
	require.NoError(t, err)
	assert.Equal(t, "console=ttyS0 quiet", c.VMConfig().KernelArgs, "the shell may have eaten the quotes")

	d, err := c.Merge("\n# more\nvcpus=2\ndisk=path:/b\n")
	require.NoError(t, err)
	assert.Len(t, d.VMConfig().Disks, 2, "a repeated key adds")
	assert.Len(t, c.VMConfig().Disks, 1, "the old one stays as it was")
	assert.Equal(t, []string{"vcpus", "disk"}, Changed(c, d))
	assert.Empty(t, Changed(d, d))

	d, err = d.Merge("disk=\nargs=\nkernel=\nqemu.accel=\nvcpus=\nmemory=\nhypervisor=")
	require.NoError(t, err)
	assert.Equal(t, Default().String(), d.String(), "an empty value goes back to the default")

	e, err := c.Merge("vcpus=8\nmemory=lots")
	require.Error(t, err)
	assert.Equal(t, c.String(), e.String(), "one wrong line changes nothing")
}

func TestErrors(t *testing.T) {
	for line, want := range map[string]string{
		"vcpus":                               "want KEY=VALUE",
		"=1":                                  "unknown key",
		"cpus=1":                              `unknown key "cpus"`,
		"qemu.=1":                             "unknown key",
		"xen.dom=1":                           "unknown key",
		"vcpus=0":                             "from 1 to 512",
		"vcpus=two":                           "from 1 to 512",
		"vcpus=1 memory=1G":                   "one KEY=VALUE a line",
		"vcpus='1":                            "quote without an end",
		"memory=12Q":                          "is not a size",
		"memory=-1":                           "is not a size",
		"memory=0":                            "16 MiB to 64 TiB",
		"memory=99999999T":                    "too large",
		"memory=100T":                         "16 MiB to 64 TiB",
		"kernel=vmlinuz":                      "not an absolute path",
		"initrd=/i":                           "initrd and args need a kernel",
		"args=quiet":                          "initrd and args need a kernel",
		"hypervisor=xen":                      `unknown hypervisor "xen"`,
		"topology=cores:3":                    "makes 3 CPUs and vcpus is 1",
		"topology=sockets:1":                  `unknown part "sockets"`,
		"topology=cores:0":                    "cores: ",
		"disk=/x.img":                         "unknown part",
		"disk=format:raw":                     "needs a path",
		"disk=path:x.img":                     "not an absolute path",
		"disk=path:/x,path:/y":                "path: given twice",
		"disk=path:/x,format:vmdk":            "unknown format",
		"disk=path:/x,readonly:true":          "yes or no",
		"disk=path:/x,size:0":                 "leave it out",
		"disk=path:/x,size:1000":              "multiple of 512",
		"disk=path:/x,size:1G,readonly:yes":   "leave size out",
		"disk=path:/x,bps:0":                  "would stop the disk",
		"disk=path:/x,burst:5M":               "burst needs bps",
		"disk=path:/x,bps:5M,burst:1":         "less than bps",
		"disk=path:/x,":                       "empty part",
		"net=":                                "",
		"net=bridge":                          "bridge: it needs a value",
		"net=user,tap:vm0":                    "one of tap, bridge, user and passt",
		"net=user,passt":                      "one of tap, bridge, user and passt",
		"net=mac:52:54:00:12:34:56":           "one of tap, bridge, user and passt",
		"net=passt:yes":                       "takes no value",
		"net=tap:":                            "tap: it needs a value",
		"net=tap:averyveryverylongname":       "not an interface name",
		"net=user,mac:01:00:5e:00:00:01":      "multicast",
		"net=user,mac:xyz":                    "not the MAC",
		"net=tap:t,ip:1.2.3.4":                "go together",
		"net=tap:t,ip:::1,netmask:255.0.0.0":  "not an IPv4",
		"net=user,forward:tcp:127.0.0.1:0:22": "not a forward",
		"net=user,forward:tcp:localhost:1:22": "not a forward",
		"net=user,forward:sctp::1:22":         "not a forward",
		"net=tap:t,forward:tcp::1:22":         "for networks of user and passt",
		"pci=1":                               "want a PCI address",
		"pci=0000:01:20.0":                    "want a PCI address",
		"vsock.cid=2":                         "not a vsock context ID",
		"vsock.cid=4294967295":                "not a vsock context ID",
		"serial.log=log":                      "not an absolute path",
		"'args=a\x00b'":                       "NUL",
		"memory=64T\nhotplug=64T":             "which with the memory of",
		"net=user,ip:1.2.3.4,netmask:255.255.255.0":  "hands out its own",
		"net=passt,ip:1.2.3.4,netmask:255.255.255.0": "hands out its own",
	} {
		c, err := Parse(line)
		if want == "" {
			assert.NoError(t, err, line)
			continue
		}
		require.Error(t, err, line)
		assert.ErrorContains(t, err, want, line)
		assert.ErrorIs(t, err, hypervisor.ErrInvalid, line)
		assert.Equal(t, Default().String(), c.String())
	}
	_, err := Parse("vcpus=1\n\nmemory=x")
	assert.EqualError(t, err, `config line 3: memory=x: "x" is not a size: want bytes, or a whole number with K, M, G or T (1024 based)`)
}

func TestSize(t *testing.T) {
	for in, want := range map[string]int64{"0": 0, "1": 1, "1k": 1024, "512M": 512 << 20, "2G": 2 << 30, "2GiB": 2 << 30, "1T": 1 << 40, "7E": 7 << 60} {
		got, err := ParseSize(in)
		require.NoError(t, err, in)
		assert.Equal(t, want, got, in)
	}
	for _, in := range []string{"", "M", "B", "1B", "1GB", "1.5G", "0x10", "+1", "-1", "1 G", "8E", "9223372036854775808", "1MM"} {
		_, err := ParseSize(in)
		assert.Error(t, err, in)
	}
	assert.Equal(t, "8191P", FormatSize(8191<<50))
}

func TestTableIsWhole(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range Keys() {
		assert.False(t, seen[k.Name], k.Name)
		seen[k.Name] = true
		assert.NotEmpty(t, k.Value, k.Name)
		assert.NotEmpty(t, k.Help, k.Name)
		assert.Contains(t, full, k.Name+"=", "the round trip covers every key")
		c, err := Parse(full)
		require.NoError(t, err)
		k.clear(&c)
		_, isDefault := map[string]bool{"hypervisor": true, "vcpus": true, "memory": true}[k.Name]
		assert.Equal(t, isDefault, strings.Contains("\n"+c.String(), "\n"+k.Name+"="), "clear of %s", k.Name)
	}
	// The form of a value that is made of parts names each of them.
	for name, parts := range map[string][]part{
		"disk": diskParts(new(hypervisor.DiskConfig)), "net": netParts(new(hypervisor.NetworkConfig)), "topology": topologyParts(new(hypervisor.CPUTopology)),
	} {
		k, err := find(name)
		require.NoError(t, err)
		for _, p := range parts {
			assert.Contains(t, k.Value, p.name)
		}
	}
	assert.True(t, Live("memory"))
	assert.False(t, Live("kernel"))
	assert.False(t, Live("nonsense"))
}

func FuzzParse(f *testing.F) {
	f.Add(full)
	f.Add("disk=path:/a,,,b")
	f.Add("args='a''b' c #d")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse(text)
		if err != nil {
			require.ErrorIs(t, err, hypervisor.ErrInvalid)
			return
		}
		again, err := Parse(c.String())
		require.NoError(t, err, "%q", c.String())
		assert.Equal(t, c.String(), again.String())
		assert.Equal(t, c.VMConfig(), again.VMConfig())
		vm := c.VMConfig()
		if c.AutoCID() {
			vm.VsockCID = hypervisor.MinVsockCID
		}
		require.NoError(t, vm.Check(), "what config takes a back end takes")
	})
}

// isText tells whether a configuration can be shown, as all must that config takes.
func isText(c Config) bool { return printable.Check(strings.ReplaceAll(c.String(), "\n", "")) == nil }

// TestChecks has config take what back ends take, and nothing else: both ask
// VMConfig.Check. Only what cannot be shown it refuses besides.
func TestChecks(t *testing.T) {
	for _, c := range hypervisortest.InvalidConfigs() {
		config := Default()
		c.Make(&config.vm)
		// Name and UUID are no keys, and a key without a value is another thing.
		if text := config.String(); config.vm.Name == "" && config.vm.UUID == "" && !strings.Contains(text, "=''") {
			_, err := Parse(text)
			require.ErrorIs(t, err, hypervisor.ErrInvalid, "%s: %q", c.Name, text)
		}
	}
	for _, c := range hypervisortest.OddConfigs() {
		config := Default()
		c.Make(&config.vm)
		again, err := Parse(config.String())
		if !isText(config) {
			require.ErrorIs(t, err, hypervisor.ErrInvalid, c.Name)
			continue
		}
		require.NoError(t, err, c.Name)
		assert.Equal(t, config.String(), strings.ReplaceAll(again.String(), "02:00:5e:10:00:0a", "02-00-5E-10-00-0A"), c.Name)
	}
}

// FuzzChecks goes from the configuration to the text: what VMConfig.Check takes, the
// text can say.
func FuzzChecks(f *testing.F) {
	hypervisortest.FuzzConfigs(f, func(t *testing.T, vm hypervisor.VMConfig) {
		vm.Name, vm.UUID, vm.VCPUs = "", "", max(vm.VCPUs, 1) // no keys, and 0 is 1
		c := Config{hv: hypervisor.TypeSim, vm: vm}
		if vm.Check() != nil {
			return
		}
		again, err := Parse(c.String())
		if !isText(c) {
			require.ErrorIs(t, err, hypervisor.ErrInvalid)
			return
		}
		require.NoError(t, err, "%q", c.String())
		if mac, err := net.ParseMAC(vm.Networks[0].MAC); err == nil {
			vm.Networks[0].MAC = mac.String()
		}
		assert.Equal(t, vm.Networks, again.vm.Networks)
		assert.Equal(t, c.vm.KernelArgs, again.vm.KernelArgs)
		assert.Equal(t, c.vm.PCIDevices, again.vm.PCIDevices)
		assert.Equal(t, c.vm.VsockSocket, again.vm.VsockSocket)
	})
}

func FuzzSize(f *testing.F) {
	f.Add("512M")
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseSize(s)
		if err != nil {
			return
		}
		again, err := ParseSize(FormatSize(n))
		require.NoError(t, err)
		assert.Equal(t, n, again)
	})
}

// TestAutoCID has the CID picked, until a number is set or nothing is.
func TestAutoCID(t *testing.T) {
	c, err := Parse("vsock.cid=42\nvsock.cid=auto")
	require.NoError(t, err)
	assert.True(t, c.AutoCID())
	assert.Zero(t, c.VMConfig().VsockCID)
	assert.Contains(t, c.String(), "vsock.cid=auto\n")
	again, err := Parse(c.String())
	require.NoError(t, err)
	assert.Empty(t, Changed(c, again))
	n, err := c.Merge("vsock.cid=7")
	require.NoError(t, err)
	assert.False(t, n.AutoCID())
	assert.EqualValues(t, 7, n.VMConfig().VsockCID)
	assert.Equal(t, []string{"vsock.cid"}, Changed(c, n))
	n, err = c.Merge("vsock.cid=")
	require.NoError(t, err)
	assert.False(t, n.AutoCID())
	assert.NotContains(t, n.String(), "vsock")
}
