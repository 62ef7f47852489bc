package main

import (
	"log/slog"
	"runtime"

	"vmfs/backends/cloudhypervisor"
	"vmfs/backends/qemu"
	"vmfs/backends/sim"
	"vmfs/backends/vz"
)

// registerBackends makes the back ends that this program links known to package
// hypervisor, by which everything else finds them.
func registerBackends(log *slog.Logger) {
	qemu.New(qemu.Config{Log: log}).Register()
	cloudhypervisor.New(cloudhypervisor.Config{Log: log}).Register()
	if vzHere {
		vz.New(vz.Config{Log: log}).Register()
	}
	sim.Register()
}

// vzHere is whether this program has Virtualization.framework to offer; tests have what
// stands for it.
var vzHere = runtime.GOOS == "darwin"
