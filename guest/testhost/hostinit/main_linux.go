// Hostinit is process 1 of a test host: see package testhost. In the initramfs it
// loads the modules and makes a root file system of the machine's own; there it
// prepares what a host has, runs one program for the runner, and powers off.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vmfs/guest/internal/kmod"
	"vmfs/guest/internal/reaper"
	"vmfs/guest/testhost/internal/spec"
)

// heartbeat is how often the serial line says that the host is alive.
const heartbeat = 5 * time.Second

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "vmfs test host: this is the init of a test host and runs as its process 1 only; `make host` makes one")
		os.Exit(1)
	}
	// What Go's runtime would make an exit of.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
	kids := reaper.New()
	if err := run(kids); err != nil {
		say("%v", err)
	}
	kids.EndAll()
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		say("power off: %v", err)
	}
	select {}
}

func run(kids *reaper.Reaper) error {
	if err := mountAll("", devices); err != nil {
		return err
	}
	go beat()
	go kids.Run()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	kmod.Load(unix.ByteSliceToString(u.Release[:]), say)
	if err := enterRoot(); err != nil {
		return err
	}
	prepare(kids)
	say("%s", spec.Ready[len(spec.Prefix):])
	return serve(kids)
}

// say prints a line on the serial console.
func say(format string, args ...any) {
	f, err := os.OpenFile("/dev/ttyS0", os.O_WRONLY|syscall.O_NOCTTY, 0)
	if err != nil {
		return // there is nobody to tell
	}
	defer f.Close()
	fmt.Fprintf(f, spec.Prefix+format+"\n", args...)
}

// beat shows that the host's time goes on.
func beat() {
	for n := 1; ; n++ {
		time.Sleep(heartbeat)
		say("%s%d", spec.Heartbeat[len(spec.Prefix):], n)
	}
}
