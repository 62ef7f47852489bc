package cloudhypervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"vmfs/backends/cloudhypervisor/api"
	"vmfs/backends/handle"
	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
	"vmfs/backends/rundir"
	"vmfs/internal/unixsock"
	"vmfs/internal/wait"
)

// A VM is the handle on one Cloud Hypervisor.
type VM struct {
	*handle.Handle
	dir    runDir
	client *api.Client
	proc   process.Process
	rec    *rundir.Kept[record, *record]

	kicked chan time.Duration // holds when there may be events to read
	gone   chan struct{}      // closed when the process has ended; exit is set then
	exit   string             // how it ended, where that is known

	mu       sync.Mutex // guards the fields below
	unsaid   int        // the pauses and resumptions to come of which no event is to tell
	panicked bool       // the guest said that it crashed, and stands still for that
	memory   int64      // the guest's, when it was asked last; 0 is not yet
	untrack  func()     // ends what tracks the guest's way to a target; nil is nothing
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
	client, kept := api.New(dir.Control()), rundir.Keep(dir.Dir, rec)
	vm := &VM{
		Handle: handle.New(handle.Config{Dir: dir.Dir, Record: kept, Child: c, Able: s, Log: s.log, HangUp: client.Close}),
		dir:    dir, client: client, proc: proc, rec: kept, kicked: make(chan time.Duration, 1), gone: make(chan struct{}),
	}
	vm.Spawn(vm.watch)
	// What is in the file by now was before the handle.
	file, past := vm.openEvents()
	vm.Spawn(func() { vm.follow(file, past) })
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
	how, err := vm.proc.WaitExit(vm.Life)
	if err != nil {
		if vm.Life.Err() == nil {
			vm.Log.Error("the end of a VMM will not be noticed", "pid", vm.proc.PID, "err", err)
		}
		return
	}
	vm.exit = how.String()
	if vm.Child != nil {
		// Its parent is told more, a moment later.
		if vm.Child.Await(vm.Life, exitWait) == nil {
			vm.exit = vm.Child.How()
		}
	}
	close(vm.gone)
}

// exitWait is how long it may take until a process that has ended, or has hung up, is known to
// have ended.
const exitWait = time.Second

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
	return fmt.Errorf("cloud-hypervisor: %s %s: %w", op, vm.Name, err)
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
	case <-vm.Life.Done():
		return net.ErrClosed
	}
}

// record returns what the VM was started with, nil where that is not known.
func (vm *VM) record() *record { return vm.rec.Get() }

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
		return wait.For(vm.Life, after) == nil
	case <-vm.gone:
	case <-vm.Life.Done():
		return false
	}
	return true
}
