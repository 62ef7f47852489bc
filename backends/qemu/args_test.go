package qemu

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/backends/hypervisor/hypervisortest"
	"vmfs/backends/starter"
)

func TestOption(t *testing.T) {
	for want, o := range map[string]*option{
		"virtio-rng-pci,id=rng0":             opt("virtio-rng-pci").set("id", "rng0"),
		"guest=a,,b c'\"=d,debug-threads=on": opt("").set("guest", "a,b c'\"=d").on("debug-threads", true),
		"x,,y,n=-1":                          opt("x,y").num("n", -1).setIf("gone", ""),
		"a=,b=off":                           opt("").set("a", "").on("b", false),
		"logfile=/a,,,,b/,,.log":             opt("").set("logfile", "/a,,b/,.log"),
	} {
		assert.Equal(t, want, o.String())
	}
}

// testPlan is a plan on a host that has everything.
func testPlan(c hypervisor.VMConfig) *plan {
	return &plan{
		config: c, arch: archs[0], accel: accelTCG, machine: "q35",
		program: program{starter.Program{Path: "/usr/bin/qemu-system-x86_64", Version: "7.2.22"}, true},
		dir:     testDir("/run/vm,s/web"),
		host: host{
			exists:   func(string) bool { return true },
			vhostNet: func() bool { return true }, iommuUsed: func() bool { return true },
			takeCID: func(int64) error { return nil },
		},
	}
}

func minimal() hypervisor.VMConfig { return hypervisor.VMConfig{MemoryBytes: 256 * mib} }

// words joins each option with its value.
func words(args []string) []string {
	var list []string
	for _, a := range args {
		if strings.HasPrefix(a, "-") && !strings.Contains(a, " ") {
			list = append(list, a)
		} else {
			list[len(list)-1] += " " + a
		}
	}
	return list
}

func TestArgsOfAMinimalVM(t *testing.T) {
	p := testPlan(minimal())
	args, err := p.args()
	require.NoError(t, err)
	assert.Equal(t, []string{
		"-name debug-threads=on",
		"-nodefaults",
		"-no-user-config",
		"-display none",
		"-vga none",
		"-msg timestamp=on",
		"-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-pidfile /run/vm,s/web/qemu.pid",
		"-action reboot=reset,shutdown=pause,panic=pause",
		"-S",
		"-machine q35,memory-backend=mem0",
		"-accel tcg",
		"-cpu max",
		"-smp cpus=1,sockets=1,dies=1,cores=1,threads=1",
		"-m size=268435456B",
		"-object memory-backend-memfd,id=mem0,size=268435456,share=on",
		"-device virtio-balloon-pci,id=balloon0",
		"-rtc base=utc",
		"-boot strict=on",
		"-chardev socket,id=qmp,fd=3,server=on,wait=off",
		"-mon chardev=qmp,mode=control,pretty=off",
		"-chardev socket,id=monitor,fd=4,server=on,wait=off",
		"-mon chardev=monitor,mode=control,pretty=on",
		"-chardev socket,id=console,fd=5,server=on,wait=off,logappend=on",
		"-serial chardev:console",
		"-device virtio-rng-pci,id=rng0",
		"-device pvpanic,id=panic0",
	}, words(args))
	assert.Equal(t, []string{fileControl, fileMonitor, fileConsole}, p.files)
}

// emptyQCOW2 is the header of a qcow2 of version 2.
var emptyQCOW2 = append([]byte("QFI\xfb\x00\x00\x00\x02"), append(make([]byte, 12), append([]byte{0, 0, 0, 16}, make([]byte, 64)...)...)...)

// TestArgs looks at the options that a part of the configuration makes.
func TestArgs(t *testing.T) {
	dir := t.TempDir()
	disk := filepath.Join(dir, `a disk, "quoted".img`)
	require.NoError(t, os.WriteFile(disk, make([]byte, 512), 0o600))
	ro := filepath.Join(dir, "ro.qcow2")
	require.NoError(t, os.WriteFile(ro, emptyQCOW2, 0o400))
	quotedDisk := strings.ReplaceAll(disk, `"`, `\"`)

	for name, c := range map[string]struct {
		config func(*hypervisor.VMConfig)
		plan   func(*plan)
		want   []string
		files  []string
		not    []string // words that no option has
	}{
		"identity": {
			config: func(c *hypervisor.VMConfig) {
				c.Name, c.UUID = "we,b=1 x", "11111111-2222-3333-4444-555555555555"
			},
			want: []string{
				"-name guest=we,,b=1 x,process=qemu:we,,b=1 x,debug-threads=on",
				"-uuid 11111111-2222-3333-4444-555555555555",
			},
		},
		"hotplug": {
			config: func(c *hypervisor.VMConfig) { c.HotplugBytes = 512*mib + 1 },
			want: []string{
				"-m size=268435456B,maxmem=807403520B",
				"-object memory-backend-memfd,id=vmem0,size=538968064,share=on,reserve=off",
				"-device virtio-mem-pci,id=vm0,memdev=vmem0,block-size=2097152,requested-size=0",
			},
		},
		"monitors of QEMU 11.1": {
			plan: func(p *plan) { p.program.Version = "11.1.3" },
			want: []string{"-object monitor-qmp,id=on-qmp,chardev=qmp,pretty=off", "-object monitor-qmp,id=on-monitor,chardev=monitor,pretty=on"},
			not:  []string{"-mon "},
		},
		"kvm": {
			plan: func(p *plan) { p.accel = accelKVM },
			want: []string{"-accel kvm", "-cpu host"},
		},
		"settings": {
			plan: func(p *plan) {
				p.machine = "pc-q35-7.2"
				p.set = settings{cpu: "qemu64,+vmx", firmware: "/fw,x", watchdog: "pause"}
			},
			want: []string{
				"-machine pc-q35-7.2,memory-backend=mem0", "-cpu qemu64,+vmx", "-bios /fw,x",
				"-device i6300esb,id=watchdog0", "-action reboot=reset,shutdown=pause,panic=pause,watchdog=pause",
			},
		},
		"no sandbox": {
			plan: func(p *plan) { p.program.sandbox = false },
			not:  []string{"-sandbox"},
		},
		"topology": {
			config: func(c *hypervisor.VMConfig) {
				c.VCPUs = 24
				c.Topology = &hypervisor.CPUTopology{ThreadsPerCore: 2, CoresPerDie: 3, DiesPerPackage: 2, Packages: 2}
			},
			want: []string{"-smp cpus=24,sockets=2,dies=2,cores=3,threads=2"},
		},
		"vcpus": {
			config: func(c *hypervisor.VMConfig) { c.VCPUs = 6 },
			want:   []string{"-smp cpus=6,sockets=1,dies=1,cores=6,threads=1"},
		},
		"console": {
			config: func(c *hypervisor.VMConfig) { c.SerialLogPath = "/log, of it" },
			want:   []string{"-chardev socket,id=console,fd=5,server=on,wait=off,logfile=/log,, of it,logappend=on"},
		},
		"console aside": {
			config: func(c *hypervisor.VMConfig) { c.SerialLogPath = "/log" },
			plan:   func(p *plan) { p.aside = true },
			want:   []string{"-chardev socket,id=console,fd=5,server=on,wait=off"},
		},
		"kernel": {
			config: func(c *hypervisor.VMConfig) {
				c.KernelPath, c.InitrdPath = "/my kernel,1", "/my initrd"
				c.KernelArgs = `root=/dev/vda, x="a b" y='c'`
			},
			want: []string{
				"-kernel /my kernel,1", "-initrd /my initrd",
				`-append console=ttyS0 root=/dev/vda, x="a b" y='c'`,
			},
		},
		"kernel with a console": {
			config: func(c *hypervisor.VMConfig) { c.KernelPath, c.KernelArgs = "/k", "quiet console=hvc0" },
			want:   []string{"-append quiet console=hvc0"},
		},
		"disks": {
			config: func(c *hypervisor.VMConfig) {
				c.Disks = []hypervisor.DiskConfig{
					{Path: disk, IOBps: 10 * mib, IOBurstBps: 20 * mib},
					{Path: ro, Readonly: true, Format: hypervisor.DiskQCOW2},
				}
			},
			want: []string{
				`-object {"id":"limit0","limits":{"bps-total":10485760,"bps-total-max":20971520},"qom-type":"throttle-group"}`,
				`-blockdev {"discard":"unmap","driver":"throttle","file":{"discard":"unmap","driver":"raw","file":{"driver":"file","filename":"` + quotedDisk +
					`"},"node-name":"image0","read-only":false},"node-name":"disk0","read-only":false,"throttle-group":"limit0"}`,
				"-device virtio-blk-pci,id=blk0,drive=disk0,werror=stop,rerror=report,bootindex=0",
				`-blockdev {"backing":null,"discard":"unmap","driver":"qcow2","file":{"driver":"file","filename":"` + ro + `"},"node-name":"disk1","read-only":true}`,
				"-device virtio-blk-pci,id=blk1,drive=disk1,werror=stop,rerror=report,bootindex=1",
			},
		},
		"a disk and a kernel": {
			config: func(c *hypervisor.VMConfig) {
				c.KernelPath, c.Disks = "/k", []hypervisor.DiskConfig{{Path: disk, IOBps: mib}}
			},
			want: []string{
				`-object {"id":"limit0","limits":{"bps-total":1048576},"qom-type":"throttle-group"}`,
				"-device virtio-blk-pci,id=blk0,drive=disk0,werror=stop,rerror=report",
			},
		},
		"networks": {
			config: func(c *hypervisor.VMConfig) {
				c.KernelPath = "/k"
				c.Networks = []hypervisor.NetworkConfig{
					{TAPDevice: "vm0", MAC: "52:54:00:12:34:5A", IP: "192.168.7.2", Netmask: "255.255.255.0"},
					{User: true, Forwards: []string{"tcp:127.0.0.1:2222:22", "udp::53:5353"}},
				}
			},
			want: []string{
				"-netdev tap,id=net0,fd=6",
				"-device virtio-net-pci,id=nic0,netdev=net0,mac=52:54:00:12:34:5a,romfile=",
				"-netdev user,id=net1,hostfwd=tcp:127.0.0.1:2222-:22,hostfwd=udp::53-:5353",
				"-append console=ttyS0 ip=192.168.7.2:::255.255.255.0::eth0:off",
			},
			files: []string{"net0"},
		},
		"passt": {
			config: func(c *hypervisor.VMConfig) {
				c.Networks = []hypervisor.NetworkConfig{
					{TAPDevice: "vm0"},
					{Passt: true, MAC: "52:54:00:12:34:5a", Forwards: []string{"tcp:127.0.0.1:2222:22"}},
				}
			},
			want: []string{
				"-netdev tap,id=net0,fd=6",
				"-netdev stream,id=net1,server=off,addr.type=fd,addr.str=7",
				"-device virtio-net-pci,id=nic1,netdev=net1,mac=52:54:00:12:34:5a,romfile=",
			},
			files: []string{"net0", "net1"},
		},
		"addresses of its own": {
			config: func(c *hypervisor.VMConfig) {
				c.KernelPath, c.KernelArgs = "/k", "ip=dhcp"
				c.Networks = []hypervisor.NetworkConfig{{TAPDevice: "vm0", IP: "192.168.7.2", Netmask: "255.255.255.0"}}
			},
			want:  []string{"-append console=ttyS0 ip=dhcp"},
			files: []string{"net0"},
		},
		"tap with kvm": {
			config: func(c *hypervisor.VMConfig) { c.Networks = []hypervisor.NetworkConfig{{TAPDevice: "vm0"}} },
			plan:   func(p *plan) { p.accel = accelKVM },
			want:   []string{"-netdev tap,id=net0,fd=6,vhost=on"},
			files:  []string{"net0"},
		},
		"pci": {
			config: func(c *hypervisor.VMConfig) {
				c.PCIDevices = []string{
					"0000:01:00.0", "0A:1f.7", "/sys/bus/pci/devices/../devices/0000:02:00.0",
					"83B8F4F2-509f-382f-3c1e-e6bfe0fa1001", "/sys/bus/mdev/devices/83b8f4f2-509f-382f-3c1e-e6bfe0fa1001",
				}
			},
			want: []string{
				"-device vfio-pci,id=pci0,host=0000:01:00.0",
				"-device vfio-pci,id=pci1,host=0000:0A:1f.7",
				"-device vfio-pci,id=pci2,sysfsdev=/sys/bus/pci/devices/0000:02:00.0",
				"-device vfio-pci,id=pci3,sysfsdev=/sys/bus/mdev/devices/83b8f4f2-509f-382f-3c1e-e6bfe0fa1001",
				"-device vfio-pci,id=pci4,sysfsdev=/sys/bus/mdev/devices/83b8f4f2-509f-382f-3c1e-e6bfe0fa1001",
			},
		},
		"vsock of the kernel": {
			config: func(c *hypervisor.VMConfig) { c.VsockCID = 4294967294 },
			want:   []string{"-device vhost-vsock-pci,id=vsock0,guest-cid=4294967294"},
		},
		"vsock of a process": {
			config: func(c *hypervisor.VMConfig) { c.VsockCID, c.VsockSocket = 3, "/run/vsock.sock" },
			want: []string{
				"-chardev socket,id=vsocksock,fd=6,server=on,wait=off",
				"-global ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off",
				"-device pcie-root-port,id=vsockport,chassis=1,slot=1,power_controller_present=off",
			},
			files: []string{fileVsock},
			not:   []string{"-device vhost-user-vsock-pci"},
		},
		"vsock of a process, QEMU 6.0": {
			config: func(c *hypervisor.VMConfig) { c.VsockCID, c.VsockSocket = 3, "/run/vsock.sock" },
			plan:   func(p *plan) { p.program.Version = "6.0.1" },
			want:   []string{"-device pcie-root-port,id=vsockport,chassis=1,slot=1,power_controller_present=off"},
			not:    []string{"-global"},
			files:  []string{fileVsock},
		},
		"vsock of a process, arm64": {
			config: func(c *hypervisor.VMConfig) { c.VsockCID, c.VsockSocket, c.KernelPath = 3, "/run/vsock.sock", "/k" },
			plan:   func(p *plan) { p.arch, p.machine = archs[1], archs[1].machine },
			want:   []string{"-device pcie-root-port,id=vsockport,chassis=1,slot=1"},
			not:    []string{"-global"},
			files:  []string{fileVsock},
		},
		"incoming": {
			plan: func(p *plan) { p.incoming = true },
			want: []string{"-S", "-incoming defer"},
		},
		"arm64": {
			config: func(c *hypervisor.VMConfig) { c.KernelPath, c.VCPUs = "/k", 2 },
			plan:   func(p *plan) { p.arch, p.machine = archs[1], archs[1].machine },
			want: []string{
				"-machine virt,memory-backend=mem0", "-smp cpus=2,sockets=1,cores=2,threads=1",
				"-device pvpanic-pci,id=panic0", "-append console=ttyAMA0",
			},
			not: []string{"-bios", "dies="},
		},
		"arm64 from a disk": {
			config: func(c *hypervisor.VMConfig) { c.Disks = []hypervisor.DiskConfig{{Path: disk}} },
			plan:   func(p *plan) { p.arch, p.machine = archs[1], archs[1].machine },
			want:   []string{"-bios /usr/share/qemu-efi-aarch64/QEMU_EFI.fd"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			config := minimal()
			if c.config != nil {
				c.config(&config)
			}
			p := testPlan(config)
			if c.plan != nil {
				c.plan(p)
			}
			args, err := p.args()
			require.NoError(t, err)
			got := words(args)
			for _, want := range c.want {
				assert.Contains(t, got, want)
			}
			for _, not := range c.not {
				assert.False(t, slices.ContainsFunc(got, func(a string) bool { return strings.Contains(a, not) }), "%s in %q", not, got)
			}
			assert.Equal(t, append([]string{fileControl, fileMonitor, fileConsole}, c.files...), p.files)
			again, err := p.args()
			require.NoError(t, err)
			assert.Equal(t, args, again, "the same plan makes the same arguments")
		})
	}
}

func TestRefusedConfigs(t *testing.T) {
	dir := t.TempDir()
	disk := filepath.Join(dir, "disk")
	require.NoError(t, os.WriteFile(disk, nil, 0o600))
	for name, c := range map[string]struct {
		config func(*hypervisor.VMConfig)
		plan   func(*plan)
		is     error
		says   string
	}{
		"dies on arm64": {
			config: func(c *hypervisor.VMConfig) { c.VCPUs, c.Topology = 2, &hypervisor.CPUTopology{DiesPerPackage: 2} },
			plan:   func(p *plan) { p.arch, p.machine = archs[1], "virt" }, is: hypervisor.ErrNotSupported, says: "virt",
		},
		"no firmware": {
			plan: func(p *plan) {
				p.arch, p.machine = archs[1], "virt"
				p.host.exists = func(string) bool { return false }
			},
			says: "qemu.firmware",
		},
		"missing disk": {
			config: func(c *hypervisor.VMConfig) { c.Disks = []hypervisor.DiskConfig{{Path: disk + "x"}} },
			is:     os.ErrNotExist, says: disk + "x",
		},
		"a directory as disk": {config: func(c *hypervisor.VMConfig) { c.Disks = []hypervisor.DiskConfig{{Path: dir}} }, says: dir},
		"passt and an old QEMU": {
			config: func(c *hypervisor.VMConfig) { c.Networks = []hypervisor.NetworkConfig{{Passt: true}} },
			plan:   func(p *plan) { p.program.Version = "7.1.9" }, is: hypervisor.ErrNotSupported, says: "7.1.9",
		},
		"pci without an IOMMU": {
			config: func(c *hypervisor.VMConfig) { c.PCIDevices = []string{"0000:01:00.0"} },
			plan:   func(p *plan) { p.host.iommuUsed = func() bool { return false } }, is: hypervisor.ErrNotSupported, says: "IOMMU",
		},
		"vsock without a module": {
			config: func(c *hypervisor.VMConfig) { c.VsockCID = 3 },
			plan:   func(p *plan) { p.host.exists = func(string) bool { return false } }, is: hypervisor.ErrNotSupported, says: vhostVsock,
		},
		"vsock with a CID that another guest has": {
			config: func(c *hypervisor.VMConfig) { c.VsockCID = 3 },
			plan: func(p *plan) {
				p.host.takeCID = func(int64) error { return os.NewSyscallError("ioctl", syscall.EADDRINUSE) }
			}, is: hypervisor.ErrCIDInUse, says: "CID 3: another guest of this host",
		},
	} {
		t.Run(name, func(t *testing.T) {
			config := minimal()
			if c.config != nil {
				c.config(&config)
			}
			p := testPlan(config)
			if c.plan != nil {
				c.plan(p)
			}
			if c.is == nil {
				c.is = hypervisor.ErrInvalid
			}
			_, err := p.args()
			require.ErrorIs(t, err, c.is)
			assert.ErrorContains(t, err, c.says)
		})
	}
}

// TestChecks has the command line made of whatever VMConfig.Check takes, and of
// nothing else.
func TestChecks(t *testing.T) {
	for _, c := range hypervisortest.InvalidConfigs() {
		config := minimal()
		c.Make(&config)
		_, err := testPlan(config).args()
		require.ErrorIs(t, err, hypervisor.ErrInvalid, c.Name)
		assert.ErrorContains(t, err, c.Says, c.Name)
	}
	for _, c := range hypervisortest.OddConfigs() {
		config := minimal()
		c.Make(&config)
		p := testPlan(config)
		_, err := p.args()
		assert.NoError(t, err, c.Name)
	}
}

func FuzzArgs(f *testing.F) {
	hypervisortest.FuzzConfigs(f, func(t *testing.T, c hypervisor.VMConfig) {
		p := testPlan(c)
		args, err := p.args()
		assert.Equal(t, c.Check(), err)
		for _, a := range args {
			assert.NotContains(t, a, "\x00")
		}
	})
}

func TestAtLeast(t *testing.T) {
	for version, want := range map[string]bool{
		"7.2.22": true, "7.2": true, "7.10.0": true, "10.0.0": true, "7.1.99": false, "6.9": false, "": false, "seven": false, "7": false,
	} {
		assert.Equal(t, want, atLeast(version, 7, 2), version)
	}
}

func TestSettings(t *testing.T) {
	set, err := settingsOf(map[string]string{"qemu.accel": "tcg", "qemu.machine": "q35", "qemu.cpu": "max", "sim.boot": "1s", "qemu.watchdog": "pause"})
	require.NoError(t, err)
	assert.Equal(t, settings{accel: "tcg", machine: "q35", cpu: "max", watchdog: "pause"}, set)
	for key, value := range map[string]string{"qemu.acel": "tcg", "qemu.accel": "hvf", "qemu.cpu": "", "qemu.binary": "a\nb"} {
		_, err := settingsOf(map[string]string{key: value})
		require.ErrorIs(t, err, hypervisor.ErrInvalid)
		assert.ErrorContains(t, err, key)
	}
	require.NoError(t, New(Config{}).CheckExtra("qemu.accel", "kvm"))
	require.ErrorIs(t, New(Config{}).CheckExtra("qemu.accel", "x"), hypervisor.ErrInvalid)
}

func TestChooseAccel(t *testing.T) {
	amd64, arm64 := archs[0], archs[1]
	opens, closed := func() error { return nil }, func() error { return os.ErrPermission }
	own := amd64
	if a, err := hostArch(); err == nil {
		own = a
	}
	other := arm64
	if own == arm64 {
		other = amd64
	}
	flags := func(s string) func() string {
		return func() string { return "processor\t: 0\nflags\t\t: fpu " + s + " sse\nvmx flags\t: x\n" }
	}
	needsFlags := own.vmx != nil
	for name, c := range map[string]struct {
		want    string
		host    host
		arch    *arch
		is      string
		refused bool
	}{
		"tcg":                     {accelTCG, host{kvm: opens, cpuinfo: flags("vmx")}, own, accelTCG, false},
		"auto, with vmx":          {accelAuto, host{kvm: opens, cpuinfo: flags("vmx")}, own, accelKVM, false},
		"unset, with svm":         {"", host{kvm: opens, cpuinfo: flags("svm")}, own, accelKVM, false},
		"auto, without either":    {accelAuto, host{kvm: opens, cpuinfo: flags("vmx_like")}, own, map[bool]string{true: accelTCG, false: accelKVM}[needsFlags], false},
		"auto, closed":            {accelAuto, host{kvm: closed, cpuinfo: flags("vmx")}, own, accelTCG, false},
		"auto, another arch":      {accelAuto, host{kvm: opens, cpuinfo: flags("vmx")}, other, accelTCG, false},
		"kvm, forced":             {accelKVM, host{kvm: opens, cpuinfo: flags("")}, own, accelKVM, false},
		"kvm, closed":             {accelKVM, host{kvm: closed, cpuinfo: flags("vmx")}, own, "", true},
		"kvm, of another machine": {accelKVM, host{kvm: opens, cpuinfo: flags("vmx")}, other, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := c.host.chooseAccel(c.want, c.arch)
			assert.Equal(t, c.is, got)
			assert.Equal(t, c.refused, errors.Is(err, hypervisor.ErrInvalid), "%v", err)
		})
	}
}

func TestVersions(t *testing.T) {
	assert.Equal(t, "7.2.22", parseVersion("QEMU emulator version 7.2.22 (Debian 1:7.2)\nCopyright"))
	assert.Equal(t, "9.0.50", parseVersion("QEMU emulator version 9.0.50\n"))
	assert.Empty(t, parseVersion("bash 5"))
	a, err := archOf("/opt/qemu/bin/qemu-system-aarch64")
	require.NoError(t, err)
	assert.Equal(t, "aarch64", a.name)
	_, err = archOf("/usr/bin/qemu-system-m68k")
	require.ErrorIs(t, err, hypervisor.ErrNotSupported)
}

// testDir is the run-time directory dir.
func testDir(dir string) runDir {
	d, err := dirOf(filepath.Join(dir, SocketName))
	if err != nil {
		panic(err) // it has a path
	}
	return d
}
