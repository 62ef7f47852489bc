package qemu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"

	"github.com/digitalocean/go-qemu/qmp/raw"

	"vmfs/backends/companion"
	"vmfs/backends/gate"
	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
	"vmfs/backends/qemu/qmp"
	"vmfs/backends/qemu/vsockdev"
	"vmfs/backends/resize"
	"vmfs/backends/rundir"
	"vmfs/internal/queue"
	"vmfs/internal/unixsock"
)

// A VM is the handle on one QEMU. It holds the one connection that QEMU's control
// socket serves, so that there is one handle at a time: a second one waits, within
// its calls, until the first is closed.
type VM struct {
	dir   runDir
	name  string
	conn  *qmp.Conn
	child *process.Child // nil where another server started it
	log   *slog.Logger
	start func(ctx context.Context, c vsockdev.Config, find bool) (*companion.Companion, error)
	caps  hypervisor.Capabilities
	rec   *rundir.Kept[record]

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // what the handle runs beside its callers
	events *queue.Queue[hypervisor.Event]

	gate gate.Gate // held while a snapshot is written, or a device is put in place

	resizing chan struct{} // holds a token while a memory target is being set

	mu        sync.Mutex // guards the fields below
	closed    bool
	ran       bool            // the guest was let run
	held      bool            // a snapshot has stopped it, and will let it go on
	endReason string          // why the guest ended, once it has
	told      bool            // GetVMInfo has told of the guest's end, see Shutdown
	ordered   bool            // Shutdown has been called, and returned nil
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
	conn, err := qmp.Dial(ctx, dir.control())
	if err != nil {
		return nil, dialError(err)
	}
	vm := &VM{
		dir:      dir,
		name:     dir.VM(),
		conn:     conn,
		child:    c,
		log:      s.log,
		start:    s.startDevice,
		caps:     s.Capabilities(recorded(rec)),
		resizing: make(chan struct{}, 1),
		rec:      rundir.Keep(rec, func(r record) error { return r.write(dir) }),
		waiters:  make(map[chan struct{}]struct{}),
		events:   queue.New(maxEvents, hypervisor.LostEvents),
	}
	if rec != nil {
		vm.ran, vm.held = rec.Ran, rec.Resume
		if rec.Config.Name != "" {
			vm.name = rec.Config.Name
		}
	}
	vm.findProcess()
	vm.ctx, vm.cancel = context.WithCancel(context.Background())
	sub := conn.Subscribe()
	conn.Start()
	vm.wg.Go(func() { vm.follow(sub) })
	return vm, nil
}

// recorded is the configuration in a record that may be missing.
func recorded(rec *record) hypervisor.VMConfig {
	if rec == nil {
		return hypervisor.VMConfig{}
	}
	return rec.Config.VMConfig
}

// dialError makes of "nobody is there" what the contract calls it.
func dialError(err error) error {
	if unixsock.Unserved(err) {
		return fmt.Errorf("%w: %w", hypervisor.ErrHypervisorNotRunning, err)
	}
	return err
}

// Close gives up the connection and leaves QEMU as it is.
func (vm *VM) Close() error {
	vm.mu.Lock()
	vm.closed = true
	vm.mu.Unlock()
	vm.cancel()
	_ = vm.conn.Close() // never fails
	vm.wg.Wait()
	vm.events.Close(net.ErrClosed)
	return nil
}

// spawn runs f beside the handle's callers, unless it is closed.
func (vm *VM) spawn(f func()) bool {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if vm.closed {
		return false
	}
	vm.wg.Go(f)
	return true
}

// Capabilities tells what works for this VM.
func (vm *VM) Capabilities() hypervisor.Capabilities { return vm.caps }

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
		if vm.child != nil {
			if how := vm.child.How(); how != "" {
				err = fmt.Errorf("%w (%s)", err, how)
			}
		}
	case errors.As(err, &refused) && refused.Class == qmp.ClassCommandNotFound:
		err = fmt.Errorf("%w: %w", err, hypervisor.ErrNotSupported)
	}
	return fmt.Errorf("qemu: %s %s: %w", op, vm.name, err)
}

// changeRecord replaces the record, if there is one. That it could not be written
// is logged: the VM runs on, and only what a restarted server knows of it suffers.
func (vm *VM) changeRecord(change func(*record)) {
	if err := vm.rec.Change(change); err != nil {
		vm.log.Warn("record not written", "vm", vm.name, "err", err)
	}
}

// record returns what the VM was started with, nil where that is not known.
func (vm *VM) record() *record { return vm.rec.Get() }

// setRan notes that the guest was let run.
func (vm *VM) setRan() {
	vm.mu.Lock()
	first := !vm.ran
	vm.ran = true
	vm.mu.Unlock()
	if first {
		vm.changeRecord(func(r *record) { r.Ran = true })
	}
}
