package cloudhypervisor

import (
	"context"
	"fmt"
	"io"

	"vmfs/backends/companion"
	"vmfs/backends/hypervisor"
	"vmfs/backends/serial"
	"vmfs/internal/wait"
)

// serial is what the process needs to know that holds what a VM and its VMM say: Cloud
// Hypervisor's serial port is a file that nobody can type at, or a socket with 1 MiB
// behind it, of which what did not fit waits until the guest says more.
func (d runDir) serial(c *hypervisor.VMConfig) serial.Config {
	s := serial.In(d.Dir, c)
	s.Stuck = true
	return s
}

// OpenConsole connects to the serial console. A second connection is ErrBusy.
func (vm *VM) OpenConsole(ctx context.Context) (io.ReadWriteCloser, error) {
	alive, cancel := wait.While(ctx, vm.proc.Gone())
	defer cancel()
	c, err := serial.Open(alive, serial.ConsolePath(vm.dir.Dir))
	if err == nil {
		return c, nil
	}
	if ctx.Err() == nil && vm.proc.Over() {
		err = fmt.Errorf("%w: %w", hypervisor.ErrHypervisorNotRunning, err)
	}
	return nil, vm.wrap("console", err)
}

// keepSerial sees to it that the VMM has the process that holds its console and its
// words, for as long as the handle is there. A nil p is to be found. It runs beside
// the handle's callers.
func (vm *VM) keepSerial(p *companion.Companion) {
	ctx, cancel := wait.While(vm.Life, vm.proc.Gone())
	defer cancel()
	serial.Keep(ctx, vm.dir.serial(&vm.record().Config.VMConfig), p, vm.proc.Over, vm.Log)
}
