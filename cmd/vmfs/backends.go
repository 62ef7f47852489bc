package main

import (
	"log/slog"
	"runtime"

	"vmfs/backends/qemu"
	"vmfs/backends/sim"
)

// registerBackends makes the back ends that this program links known to package
// hypervisor, by which everything else finds them.
func registerBackends(log *slog.Logger) {
	c := qemu.Config{Log: log, VsockDialer: dialGuest}
	if runtime.GOOS == "linux" {
		c.StartVsockDevice, c.EndVsockDevice = startVsockDevice, endVsockDevice
	}
	qemu.New(c).Register()
	sim.Register()
}
