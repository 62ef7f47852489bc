package qemu

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/digitalocean/go-qemu/qmp/raw"

	"vmfs/backends/companion"
	"vmfs/backends/handle"
	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
	"vmfs/backends/qemu/qmp"
	"vmfs/backends/qemu/vsockdev"
	"vmfs/backends/resize"
	"vmfs/backends/rundir"
	"vmfs/internal/unixsock"
)

// A VM is the handle on one QEMU. It holds the one connection that QEMU's control
// socket serves, so that there is one handle at a time: a second one waits, within
// its calls, until the first is closed.
type VM struct {
	*handle.Handle
	dir   runDir
	conn  *qmp.Conn
	start func(ctx context.Context, c vsockdev.Config, find bool) (*companion.Companion, error)
	rec   *rundir.Kept[record, *record]

	mu        sync.Mutex      // guards the fields below
	suspended bool            // the guest sleeps (ACPI S3)
	unsaid    int             // the number of times it ran and stopped of which no event is to tell
	console   bool            // there is a console connection
	proc      process.Process // QEMU's, zero while it is not known
	limits    *resize.Limits  // of the memory, once known
	waiters   map[chan struct{}]struct{}
}

var (
	_ hypervisor.Hypervisor  = (*VM)(nil)
	_ hypervisor.EventSource = (*VM)(nil)
	_ hypervisor.Resetter    = (*VM)(nil)
	_ hypervisor.NMIInjector = (*VM)(nil)
	_ hypervisor.DiskGrower  = (*VM)(nil)
	_ hypervisor.Console     = (*VM)(nil)
	_ hypervisor.Identifier  = (*VM)(nil)
	_ hypervisor.VsockSource = (*VM)(nil)
)

// connect makes the handle on the QEMU that serves the control socket in dir. It
// does not wait for an answer: a QEMU that hangs makes the handle's calls wait, as
// far as their contexts let them.
func (s *Starter) connect(ctx context.Context, dir runDir, rec *record, c *process.Child) (*VM, error) {
	conn, err := qmp.Dial(ctx, dir.Control())
	if err != nil {
		return nil, dialError(err)
	}
	kept := rundir.Keep(dir.Dir, rec)
	vm := &VM{
		Handle: handle.New(handle.Config{Dir: dir.Dir, Record: kept, Child: c, Able: s, Log: s.log, HangUp: conn.Close}),
		dir:    dir, conn: conn, start: s.startDevice, rec: kept, waiters: make(map[chan struct{}]struct{}),
	}
	vm.findProcess(false)
	sub := conn.Subscribe()
	conn.Start()
	vm.Spawn(func() { vm.follow(sub) })
	return vm, nil
}

// dialError makes of "nobody is there" what the contract calls it.
func dialError(err error) error {
	if unixsock.Unserved(err) {
		return fmt.Errorf("%w: %w", hypervisor.ErrHypervisorNotRunning, err)
	}
	return err
}

// raw is go-qemu's typed calls, obeying ctx.
func (vm *VM) raw(ctx context.Context) *raw.Monitor { return raw.NewMonitor(vm.conn.Monitor(ctx)) }

// order has QEMU do what takes no arguments and tells nothing. It takes a tenth of a
// millisecond less than raw, which for a pause is a fifth.
func (vm *VM) order(ctx context.Context, command string) error {
	return vm.conn.Execute(ctx, command, nil, nil)
}

// wrap makes an error of an operation: "qemu: pause web: …".
func (vm *VM) wrap(op string, err error) error {
	var refused *qmp.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, qmp.ErrDisconnected):
		err = hypervisor.ErrHypervisorNotRunning
		if vm.Child != nil {
			if how := vm.Child.How(); how != "" {
				err = fmt.Errorf("%w (%s)", err, how)
			}
		}
	case errors.As(err, &refused) && refused.Class == qmp.ClassCommandNotFound:
		err = fmt.Errorf("%w: %w", err, hypervisor.ErrNotSupported)
	}
	return fmt.Errorf("qemu: %s %s: %w", op, vm.Name, err)
}

// record returns what the VM was started with, nil where that is not known.
func (vm *VM) record() *record { return vm.rec.Get() }
