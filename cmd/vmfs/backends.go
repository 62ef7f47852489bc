package main

import (
	"log/slog"

	"vmfs/backends/cloudhypervisor"
	"vmfs/backends/qemu"
	"vmfs/backends/sim"
)

// registerBackends makes the back ends that this program links known to package
// hypervisor, by which everything else finds them.
func registerBackends(log *slog.Logger) {
	qemu.New(qemu.Config{Log: log}).Register()
	cloudhypervisor.New(cloudhypervisor.Config{Log: log}).Register()
	sim.Register()
}
