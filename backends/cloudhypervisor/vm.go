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
	proc   *handle.Watched
	rec    *rundir.Kept[record, *record]

	kicked chan time.Duration // holds when there may be events to read

	mu       sync.Mutex // guards the fields below
	unsaid   int        // the pauses and resumptions to come of which no event is to tell
	panicked bool       // the guest said that it crashed, and stands still for that
	memory   int64      // the guest's, when it was asked last; 0 is not yet
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
		dir:    dir, client: client, rec: kept, kicked: make(chan time.Duration, 1),
	}
	vm.proc = vm.Watch(proc)
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

// wrap makes an error of an operation: "cloud-hypervisor: pause web: …".
func (vm *VM) wrap(op string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, api.ErrClosed):
		err = fmt.Errorf("%w: %w", net.ErrClosed, err)
	case errors.Is(err, hypervisor.ErrHypervisorNotRunning):
		err = vm.proc.Absent(err)
	}
	return fmt.Errorf("cloud-hypervisor: %s %s: %w", op, vm.Name, err)
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
	case <-vm.proc.Gone():
	case <-vm.Life.Done():
		return false
	}
	return true
}
