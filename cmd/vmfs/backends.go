package main

import (
	"log/slog"

	"vmfs/backends/sim"
)

// registerBackends makes the back ends that this program links known to package
// hypervisor, by which everything else finds them.
func registerBackends(_ *slog.Logger) {
	sim.Register()
}
