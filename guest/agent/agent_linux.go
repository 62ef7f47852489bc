package agent

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"vmfs/guest/internal/kmod"
	"vmfs/guest/internal/reaper"
)

// agent is the state of process 1.
type agent struct {
	con      *console
	kids     *reaper.Reaper
	cmdline  cmdline
	down     chan action // what ends the guest; one suffices, more are dropped
	stopping atomic.Bool // set before processes are told to end: nothing is started again

	memory *memoryWatch
	input  *powerButton
	net    atomic.Pointer[netConfig] // nil: none asked for
}

// Main is process 1 of a guest. It does not return there; in another process it
// says what it is for and exits.
func Main() {
	if os.Getpid() != 1 {
		if filepath.Base(os.Args[0]) == toolName {
			os.Exit(vsockTool(os.Args[1:]))
		}
		fmt.Fprintln(os.Stderr, "vmfs guest init: this is the init of a guest and runs as its process 1 only; `vmfs guest build` makes the guest")
		os.Exit(1)
	}
	// A panic in this goroutine must not end process 1 either.
	for {
		func() {
			defer func() {
				if p := recover(); p != nil {
					fmt.Fprintf(os.Stderr, "vmfs guest: agent: %v\n%s", p, debug.Stack())
				}
			}()
			run()
		}()
		shutdown(reaper.New(), powerOff, nil)
	}
}

// run boots, waits for the end and brings it about.
func run() {
	a := &agent{kids: reaper.New(), down: make(chan action, 1)}
	mountErrs := mountAll()
	a.con = openConsole()
	a.handleSignals()
	go a.guard("reap children", a.kids.Run)

	for _, err := range mountErrs {
		a.con.printf("vmfs guest: %v", err)
	}
	raw, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		a.con.printf("vmfs guest: %v", err)
	}
	a.cmdline = parseCmdline(string(raw))
	a.quietKernel()
	// A kernel signal instead of a reset at once for ctrl-alt-del.
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF); err != nil {
		a.con.printf("vmfs guest: ctrl-alt-del: %v", err)
	}
	a.setHostname()

	// Before any module: what it finds now is the machine as it was started.
	a.memory = newMemoryWatch(a.con)
	a.memory.setOnlinePolicy(a.cmdline)
	a.input = &powerButton{con: a.con, pressed: func() { a.end(powerOff) }}

	events, err := openUevents()
	if err != nil {
		a.con.printf("vmfs guest: kernel events: %v", err)
	} else {
		go a.guard("kernel events", func() { events.run(a.handleUevent) })
	}
	kmod.Load(kernelRelease(), func(format string, args ...any) { a.con.printf("vmfs guest: "+format, args...) })
	a.con.reopen()
	a.input.scan()
	a.startNetwork()
	a.installBusybox()
	go a.guard("memory", a.memory.run)
	a.startServices()

	a.con.printf("vmfs guest ready: linux %s, %d cpus, %d MiB", kernelRelease(), runtime.NumCPU(), a.memory.now())
	go a.guard("console", a.serveConsole)

	act := <-a.down
	a.stopping.Store(true)
	a.con.printf("vmfs guest: %s", act)
	shutdown(a.kids, act, a.con)
}

// end asks for the end of the guest. The first request counts.
func (a *agent) end(act action) {
	select {
	case a.down <- act:
	default:
	}
}

// guard runs a part of the agent; a panic in it is reported and the part ends,
// but process 1 lives on.
func (a *agent) guard(what string, f func()) {
	defer func() {
		if p := recover(); p != nil {
			a.con.printf("vmfs guest: %s: %v\n%s", what, p, debug.Stack())
		}
	}()
	f()
}

// handleSignals takes over every signal that would make Go's runtime exit, and
// acts on those that ask for an end.
func (a *agent) handleSignals() {
	ch := make(chan os.Signal, 16)
	var all []os.Signal
	for s := syscall.Signal(1); s < 32; s++ {
		switch s {
		case syscall.SIGKILL, syscall.SIGSTOP, syscall.SIGCHLD, syscall.SIGURG, syscall.SIGPROF:
			// Cannot be caught, is the reaper's, or is the Go runtime's own.
		default:
			all = append(all, s)
		}
	}
	signal.Notify(ch, all...)
	go a.guard("signals", func() {
		for s := range ch {
			switch s {
			case syscall.SIGUSR1, syscall.SIGUSR2:
				a.end(powerOff)
			case syscall.SIGTERM, syscall.SIGINT:
				a.end(restart)
			}
		}
	})
}

// handleUevent sends a kernel event to the part that it concerns. An event of a
// nil map stands for any number that were lost.
func (a *agent) handleUevent(ev uevent) {
	lost := ev == nil
	if lost || ev["SUBSYSTEM"] == "memory" {
		a.memory.kick()
	}
	if lost || ev["SUBSYSTEM"] == "input" && ev["ACTION"] == "add" {
		a.input.scan()
	}
	if lost || ev["SUBSYSTEM"] == "net" && ev["ACTION"] == "add" {
		a.configureNetwork()
	}
}

// quietKernel keeps the kernel's small talk out of the shell on the console.
func (a *agent) quietKernel() {
	level := a.cmdline["vmfs.loglevel"]
	if level == "" {
		if a.cmdline.has("loglevel") || a.cmdline.has("debug") || a.cmdline.has("ignore_loglevel") {
			return
		}
		level = "4"
	}
	if err := os.WriteFile("/proc/sys/kernel/printk", []byte(level), 0); err != nil {
		a.con.printf("vmfs guest: console log level %s: %v", level, err)
	}
}

func (a *agent) setHostname() {
	name := a.cmdline["vmfs.hostname"]
	if name == "" {
		name = "guest"
	}
	if err := unix.Sethostname([]byte(name)); err != nil {
		a.con.printf("vmfs guest: host name %s: %v", name, err)
	}
}

func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "?"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// environment is what programs of the guest are started with.
func environment() []string {
	return []string{
		"PATH=/bin:/sbin:/usr/bin:/usr/sbin", "HOME=/root", "USER=root", "SHELL=/bin/sh",
		"TERM=linux", "PS1=guest# ",
	}
}

func fileExists(path string) bool { _, err := os.Stat(path); return err == nil }

func readTrimmed(path string) (string, error) {
	b, err := os.ReadFile(path)
	return strings.TrimSpace(string(b)), err
}
