package qemu

import (
	"fmt"
	"strings"

	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
)

// A plan is all that QEMU's command line is made of. Making the command line
// opens nothing and starts nothing.
type plan struct {
	config  hypervisor.VMConfig
	set     settings
	arch    *arch
	accel   string // accelKVM or accelTCG
	machine string // the machine type
	layout  layout
	program program
	host    host
	dir     runDir
	// aside is whether a process beside QEMU holds the console.
	aside bool
	// incoming makes a VM that waits for the state of another.
	incoming bool

	files []string // what QEMU inherits, in the order of its descriptors, from process.FirstFile on
}

// The files that a QEMU inherits.
const (
	fileControl = "control" // the listening control socket
	fileMonitor = "monitor" // the listening socket of the monitor for people and tools
	fileConsole = "console" // the listening socket of the console
	fileVsock   = "vsock"   // the listening socket for the vsock device
	fileNetwork = "net"     // of which each network has one by its number
)

// The names of QEMU's objects that the handle uses.
const (
	idBalloon    = "balloon0"
	idVirtioMem  = "vm0"
	idConsole    = "console"
	idVsock      = "vsock0"
	idVsockPort  = "vsockport"
	idVsockSock  = "vsocksock"
	idBaseMemory = "mem0"
)

// file returns the descriptor under which QEMU inherits a file.
func (p *plan) file(name string) int {
	p.files = append(p.files, name)
	return process.FirstFile + len(p.files) - 1
}

const (
	mib = 1 << 20
	// memoryStep is the size in which virtio-mem plugs memory.
	memoryStep = 2 * mib
	// hotplugAlign is what the hot-plug area is rounded up to.
	hotplugAlign = memoryStep
)

// args makes the command line, without the program, or says what is wrong with
// the configuration.
func (p *plan) args() ([]string, error) {
	p.files = nil
	c := &p.config
	if err := c.Check(); err != nil {
		return nil, err
	}
	var a commandLine
	a.opt("name", opt("").setIf("guest", c.Name).setIf("process", processName(c.Name)).on("debug-threads", true))
	if c.UUID != "" {
		a.text("uuid", c.UUID)
	}
	a.flag("nodefaults")
	a.flag("no-user-config")
	a.text("display", "none")
	a.text("vga", "none")
	a.opt("msg", opt("").on("timestamp", true))
	if p.program.sandbox {
		a.opt("sandbox", opt("on").set("obsolete", "deny").set("elevateprivileges", "deny").
			set("spawn", "deny").set("resourcecontrol", "deny"))
	}
	a.text("pidfile", p.dir.pidFile())

	// A guest that powers off or crashes leaves QEMU, stopped, to tell of it.
	act := opt("").set("reboot", "reset").set("shutdown", "pause").set("panic", "pause").setIf("watchdog", p.set.watchdog)
	a.opt("action", act)
	a.flag("S")
	if p.incoming {
		a.text("incoming", "defer")
	}

	a.opt("machine", opt(p.machine).set("memory-backend", idBaseMemory))
	a.text("accel", p.accel)
	a.text("cpu", p.cpu())
	smp, err := p.smp()
	if err != nil {
		return nil, err
	}
	a.opt("smp", smp)
	p.memory(&a)
	a.opt("rtc", opt("").set("base", "utc"))
	a.opt("boot", opt("").on("strict", true))

	for _, m := range []struct{ file, id string }{{fileControl, "qmp"}, {fileMonitor, "monitor"}} {
		a.opt("chardev", opt("socket").set("id", m.id).num("fd", int64(p.file(m.file))).on("server", true).on("wait", false))
		if pretty := m.file == fileMonitor; atLeast(p.program.Version, 11, 1) {
			a.opt("object", opt("monitor-qmp").set("id", "on-"+m.id).set("chardev", m.id).on("pretty", pretty))
		} else {
			a.opt("mon", opt("").set("chardev", m.id).set("mode", "control").on("pretty", pretty)) // deprecated since
		}
	}
	console := opt("socket").set("id", idConsole).num("fd", int64(p.file(fileConsole))).on("server", true).on("wait", false)
	if !p.aside {
		console.setIf("logfile", c.SerialLogPath).on("logappend", true)
	}
	a.opt("chardev", console)
	a.text("serial", "chardev:"+idConsole)

	a.opt("device", p.place(opt("virtio-rng-pci").set("id", "rng0"), slotRNG))
	panicked := opt(p.arch.panicAt).set("id", "panic0")
	if strings.HasSuffix(p.arch.panicAt, "-pci") {
		panicked = p.place(panicked, slotPanic)
	}
	a.opt("device", panicked)
	if p.set.watchdog != "" {
		a.opt("device", p.place(opt("i6300esb").set("id", "watchdog0"), slotWatchdog))
	}
	if err := p.disks(&a); err != nil {
		return nil, err
	}
	if err := p.networks(&a); err != nil {
		return nil, err
	}
	if err := p.pci(&a); err != nil {
		return nil, err
	}
	if err := p.vsock(&a); err != nil {
		return nil, err
	}
	p.freePorts(&a)
	if err := p.boot(&a); err != nil {
		return nil, err
	}
	return a, nil
}

// processName is what ps and top show. The kernel keeps 15 bytes of it.
func processName(name string) string {
	if name == "" {
		return ""
	}
	return "qemu:" + name
}

func (p *plan) cpu() string {
	switch {
	case p.set.cpu != "":
		return p.set.cpu
	case p.accel == accelKVM:
		return "host"
	default:
		return "max"
	}
}

// smp makes the virtual CPUs' layout. Without one they are the cores of one package.
func (p *plan) smp() (*option, error) {
	n := max(p.config.VCPUs, 1)
	t := p.config.Topology
	if t == nil {
		t = &hypervisor.CPUTopology{CoresPerDie: n}
	}
	o := opt("").num("cpus", int64(n)).num("sockets", int64(max(t.Packages, 1)))
	switch {
	case p.arch.dies:
		o.num("dies", int64(max(t.DiesPerPackage, 1)))
	case t.DiesPerPackage > 1:
		return nil, fmt.Errorf("%d dies in a package: CPUs of the machine %s have no dies: %w", t.DiesPerPackage, p.machine, hypervisor.ErrNotSupported)
	}
	return o.num("cores", int64(max(t.CoresPerDie, 1))).num("threads", int64(max(t.ThreadsPerCore, 1))), nil
}

// memory makes the base, the area above it that virtio-mem fills, and the
// balloon that takes from the base. All of it is memory that can be shared with a
// device in another process (vhost-user).
func (p *plan) memory(a *commandLine) {
	c := &p.config
	hotplug := hotplugArea(c.HotplugBytes)
	size := opt("").set("size", fmt.Sprintf("%dB", c.MemoryBytes))
	if hotplug > 0 {
		size.set("maxmem", fmt.Sprintf("%dB", c.MemoryBytes+hotplug))
	}
	a.opt("m", size)
	a.opt("object", opt("memory-backend-memfd").set("id", idBaseMemory).num("size", c.MemoryBytes).on("share", true))
	if hotplug > 0 {
		a.opt("object", opt("memory-backend-memfd").set("id", "vmem0").num("size", hotplug).on("share", true).on("reserve", false))
		a.opt("device", p.place(opt("virtio-mem-pci").set("id", idVirtioMem).set("memdev", "vmem0").
			num("block-size", memoryStep).num("requested-size", 0), slotHotplug))
	}
	a.opt("device", p.place(opt("virtio-balloon-pci").set("id", idBalloon), slotBalloon))
}

// hotplugArea is the size of the area above the base: a whole number of steps.
func hotplugArea(bytes int64) int64 {
	return (bytes + hotplugAlign - 1) / hotplugAlign * hotplugAlign
}

// boot makes the guest start from a kernel, or by firmware from a disk.
func (p *plan) boot(a *commandLine) error {
	c := &p.config
	switch {
	case p.set.firmware != "":
		a.text("bios", p.set.firmware)
	case c.KernelPath == "" && p.arch.firmware != nil:
		path := ""
		for _, f := range p.arch.firmware {
			if p.host.exists(f) {
				path = f
				break
			}
		}
		if path == "" {
			return fmt.Errorf("the machine %s needs firmware to boot from a disk, and none of %s is there: install it, or set qemu.firmware or kernel: %w",
				p.machine, strings.Join(p.arch.firmware, ", "), hypervisor.ErrInvalid)
		}
		a.text("bios", path)
	}
	if c.KernelPath == "" {
		return nil
	}
	a.text("kernel", c.KernelPath)
	if c.InitrdPath != "" {
		a.text("initrd", c.InitrdPath)
	}
	a.text("append", c.GuestArgs(p.arch.console))
	return nil
}
