package cloudhypervisor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"vmfs/backends/cloudhypervisor/api"
	"vmfs/backends/gate"
	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
	"vmfs/backends/rundir"
	"vmfs/internal/queue"
	"vmfs/internal/unixsock"
	"vmfs/internal/wait"
)

// A VM is the handle on one Cloud Hypervisor.
type VM struct {
	dir    runDir
	name   string
	client *api.Client
	proc   process.Process
	child  *process.Child // nil where another server started it
	log    *slog.Logger
	caps   hypervisor.Capabilities
	rec    *rundir.Kept[record]

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // what the handle runs beside its callers
	events *queue.Queue[hypervisor.Event]
	kicked chan time.Duration // holds when there may be events to read
	gone   chan struct{}      // closed when the process has ended; exit is set then
	exit   string             // how it ended, where that is known

	gate    gate.Gate     // held while a snapshot is written
	setting chan struct{} // holds a token while a memory target is being set

	mu        sync.Mutex // guards the fields below
	closed    bool
	ran       bool   // the guest was let run
	held      bool   // a snapshot has stopped it, and will let it go on
	unsaid    int    // the pauses and resumptions to come of which no event is to tell
	panicked  bool   // the guest said that it crashed, and stands still for that
	endReason string // why the guest ended, once it has
	told      bool   // GetVMInfo has told of the guest's end, see Shutdown
	ordered   bool   // Shutdown has been called
	memory    int64  // the guest's, when it was asked last; 0 is not yet
	untrack   func() // ends what tracks the guest's way to a target; nil is nothing
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
	_ hypervisor.Describer   = (*VM)(nil)
)

// connect makes the handle on the Cloud Hypervisor that serves the control socket in dir. It
// does not wait for an answer: one that hangs makes the handle's calls wait, as far as
// their contexts let them.
func (s *Starter) connect(ctx context.Context, dir runDir, rec *record, c *process.Child) (*VM, error) {
	proc, err := serving(ctx, dir, rec)
	if err != nil {
		return nil, err
	}
	config := hypervisor.VMConfig{}
	if rec != nil {
		config = rec.Config.VMConfig
	}
	vm := &VM{
		dir:     dir,
		name:    cmp.Or(config.Name, dir.VM()),
		client:  api.New(dir.Control()),
		proc:    proc,
		child:   c,
		log:     s.log,
		caps:    s.Capabilities(config),
		events:  queue.New(maxEvents, hypervisor.LostEvents),
		kicked:  make(chan time.Duration, 1),
		gone:    make(chan struct{}),
		setting: make(chan struct{}, 1),
		rec:     rundir.Keep(rec, func(r record) error { return r.write(dir) }),
	}
	if rec != nil {
		vm.ran, vm.held = rec.Ran, rec.Resume
	}
	vm.ctx, vm.cancel = context.WithCancel(context.Background())
	vm.wg.Go(vm.watch)
	// What is in the file by now was before the handle.
	file, past := vm.openEvents()
	vm.wg.Go(func() { vm.follow(file, past) })
	return vm, nil
}

// serving finds the process that serves the control socket: the recorded one, or, where a
// server was killed before it had put that down, the one that the kernel names. What the VMM
// says of its own pid is not asked: in a pid namespace of its own that is another one.
func serving(ctx context.Context, dir runDir, rec *record) (process.Process, error) {
	conn, err := unixsock.Dial(ctx, dir.Control())
	if unixsock.Unserved(err) {
		return process.Process{}, fmt.Errorf("%w: %w", hypervisor.ErrHypervisorNotRunning, err)
	}
	if err != nil {
		return process.Process{}, err
	}
	defer conn.Close()
	if rec != nil && rec.Process != nil && rec.Process.Alive() {
		return *rec.Process, nil
	}
	p, err := process.Peer(conn)
	if err != nil {
		return process.Process{}, fmt.Errorf("which process serves %s: %w", dir.Control(), err)
	}
	return p, nil
}

// watch waits for the process's end.
func (vm *VM) watch() {
	how, err := vm.proc.WaitExit(vm.ctx)
	if err != nil {
		if vm.ctx.Err() == nil {
			vm.log.Error("the end of a VMM will not be noticed", "vm", vm.name, "pid", vm.proc.PID, "err", err)
		}
		return
	}
	vm.exit = how.String()
	if vm.child != nil {
		// Its parent is told more, a moment later.
		if vm.child.Await(vm.ctx, exitWait) == nil {
			vm.exit = vm.child.How()
		}
	}
	close(vm.gone)
}

// exitWait is how long it may take until a process that has ended, or has hung up, is known to
// have ended.
const exitWait = time.Second

// Close gives up the connection and leaves Cloud Hypervisor as it is.
func (vm *VM) Close() error {
	vm.mu.Lock()
	vm.closed = true
	vm.mu.Unlock()
	vm.cancel()
	_ = vm.client.Close() // never fails
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

// wrap makes an error of an operation: "cloud-hypervisor: pause web: …".
func (vm *VM) wrap(op string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, api.ErrClosed):
		err = fmt.Errorf("%w: %w", net.ErrClosed, err)
	case errors.Is(err, hypervisor.ErrHypervisorNotRunning):
		err = vm.absent(err)
	}
	return fmt.Errorf("cloud-hypervisor: %s %s: %w", op, vm.name, err)
}

// absent makes an error of one that nobody answers: the process has ended, or it lives and
// cannot be reached any more.
func (vm *VM) absent(err error) error {
	timer := time.NewTimer(exitWait)
	defer timer.Stop()
	select {
	case <-vm.gone:
		if vm.exit != "" {
			return fmt.Errorf("%w (%s)", hypervisor.ErrHypervisorNotRunning, vm.exit)
		}
		return hypervisor.ErrHypervisorNotRunning
	case <-timer.C:
		// It is not wrapped: the VMM runs.
		return fmt.Errorf("process %d runs, but does not answer on its socket any more; it can only be killed: %v", vm.proc.PID, err)
	case <-vm.ctx.Done():
		return net.ErrClosed
	}
}

// ask runs f with a context for a question of the handle's own.
func (vm *VM) ask(f func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(vm.ctx, askTimeout)
	defer cancel()
	return f(ctx)
}

// askTimeout bounds what the handle itself asks.
const askTimeout = 5 * time.Second

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

// kick has the events read after a while, and often from then on: the VMM is about to tell of
// something.
func (vm *VM) kick(after time.Duration) {
	select {
	case vm.kicked <- after:
	default:
	}
}

// pauseReading waits until there may be events to read, or the VMM is gone. It returns false when the
// handle is closed.
func (vm *VM) pauseReading(next *wait.Backoff) bool {
	timer := time.NewTimer(next.Next())
	defer timer.Stop()
	select {
	case <-timer.C:
	case after := <-vm.kicked:
		next.Reset()
		return wait.For(vm.ctx, after) == nil
	case <-vm.gone:
	case <-vm.ctx.Done():
		return false
	}
	return true
}
