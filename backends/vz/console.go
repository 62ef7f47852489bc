package vz

import (
	"context"
	"fmt"
	"io"

	"vmfs/backends/hypervisor"
	"vmfs/backends/serial"
	"vmfs/internal/wait"
)

// OpenConsole connects to the serial console, which the shim serves. A second connection is
// ErrBusy.
func (vm *VM) OpenConsole(ctx context.Context) (io.ReadWriteCloser, error) {
	alive, cancel := wait.While(ctx, vm.proc.Gone())
	defer cancel()
	c, err := serial.Open(alive, vm.dir.console())
	if err == nil {
		return c, nil
	}
	if ctx.Err() == nil && vm.proc.Over() {
		err = fmt.Errorf("%w: %w", hypervisor.ErrHypervisorNotRunning, err)
	}
	return nil, vm.wrap("console", err)
}
