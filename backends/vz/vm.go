package vz

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"vmfs/backends/handle"
	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
	"vmfs/backends/rundir"
	"vmfs/backends/vz/shimapi"
	"vmfs/guest/control"
)

// A VM is the handle on one shim.
type VM struct {
	*handle.Handle
	dir  runDir
	proc *handle.Watched
	rec  *rundir.Kept[record, *record]

	asking sync.Mutex // held while the agent is dialed; before mu

	mu      sync.Mutex // guards the fields below
	closed  bool
	api     *shimapi.Client // replaced when the shim has hung up
	caps    hypervisor.Capabilities
	agent   *control.Client
	noAgent time.Time // until when an agent that did not answer is not asked for nothing
	memory  int64     // the guest's, when its agent was asked last; 0 is not known
}

var (
	_ hypervisor.Hypervisor  = (*VM)(nil)
	_ hypervisor.EventSource = (*VM)(nil)
	_ hypervisor.Console     = (*VM)(nil)
	_ hypervisor.Identifier  = (*VM)(nil)
	_ hypervisor.VsockSource = (*VM)(nil)
	_ hypervisor.Describer   = (*VM)(nil)
)

// connect makes the handle on the shim that serves the control socket in dir. It does not
// wait for an answer: one that hangs makes the handle's calls wait, as far as their
// contexts let them.
func (s *Starter) connect(ctx context.Context, dir runDir, rec *record, c *process.Child) (*VM, error) {
	api, err := dial(ctx, dir)
	if err != nil {
		return nil, err
	}
	proc, err := serving(api, rec)
	if err != nil {
		_ = api.Close() // nothing was asked
		return nil, err
	}
	kept := rundir.Keep(dir.Dir, rec)
	vm := &VM{dir: dir, api: api, rec: kept}
	if rec != nil {
		vm.memory = rec.Memory
		if rec.Report != nil {
			vm.caps = capabilities(rec.Report.Host, rec.Report.Support)
		}
	}
	vm.Handle = handle.New(handle.Config{Dir: dir.Dir, Record: kept, Child: c, Able: unasked{}, Log: s.log, HangUp: vm.hangUp})
	vm.proc = vm.Watch(proc)
	vm.Spawn(vm.follow)
	return vm, nil
}

// An unasked is able to do nothing: what a VM can do its shim says, see Capabilities.
type unasked struct{}

func (unasked) Capabilities(hypervisor.VMConfig) hypervisor.Capabilities {
	return hypervisor.Capabilities{}
}

// dial connects to the control socket.
func dial(ctx context.Context, dir runDir) (*shimapi.Client, error) {
	api, err := shimapi.Dial(ctx, dir.Control())
	if errors.Is(err, shimapi.ErrGone) {
		err = fmt.Errorf("%w: %w", hypervisor.ErrHypervisorNotRunning, err)
	}
	return api, err
}

// serving finds the shim's process: the recorded one, or, where a server was killed before
// it had put that down, the one that the kernel names.
func serving(api *shimapi.Client, rec *record) (process.Process, error) {
	if rec != nil && rec.Process != nil && rec.Process.Alive() {
		return *rec.Process, nil
	}
	peer, err := api.Peer()
	var p process.Process
	if err == nil {
		p, err = process.Find(peer.PID)
	}
	if errors.Is(err, process.ErrEnded) {
		return process.Process{}, fmt.Errorf("%w: %w", hypervisor.ErrHypervisorNotRunning, err) // just now
	}
	if err != nil {
		return process.Process{}, fmt.Errorf("which process serves the control socket: %w", err)
	}
	return p, nil
}

// hangUp gives up the connections to the shim and to the agent.
func (vm *VM) hangUp() error {
	vm.mu.Lock()
	vm.closed = true
	api, agent := vm.api, vm.agent
	vm.mu.Unlock()
	_ = api.Close() // what was asked is gone through with
	if agent != nil {
		_ = agent.Close() // nothing is asked
	}
	return nil
}

// Capabilities tells what works for this VM.
func (vm *VM) Capabilities() hypervisor.Capabilities {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	return vm.caps
}

// client is the connection to the shim, anew where that has hung up.
func (vm *VM) client(ctx context.Context) (*shimapi.Client, error) {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if vm.closed {
		return nil, shimapi.ErrClosed
	}
	select {
	case <-vm.api.Over():
	default:
		return vm.api, nil
	}
	select {
	case <-vm.proc.Gone():
		return nil, shimapi.ErrGone
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, handle.ExitWait)
	defer cancel()
	api, err := dial(ctx, vm.dir)
	if err != nil {
		return nil, err
	}
	_ = vm.api.Close() // it is over
	vm.api = api
	return api, nil
}

// call asks the shim.
func (vm *VM) call(ctx context.Context, method shimapi.Method, params, result any) error {
	api, err := vm.client(ctx)
	if err == nil {
		err = api.Call(ctx, method, params, result)
	}
	return translate(err)
}

// sentinels say what the shim's codes are to a caller.
var sentinels = map[shimapi.Code]error{
	shimapi.CodeInvalid:     hypervisor.ErrInvalid,
	shimapi.CodeBusy:        hypervisor.ErrBusy,
	shimapi.CodeUnsupported: hypervisor.ErrNotSupported,
	shimapi.CodeUnknown:     hypervisor.ErrNotSupported, // by an older shim
	shimapi.CodeCancelled:   context.Canceled,
	shimapi.CodeEnding:      hypervisor.ErrHypervisorNotRunning,
}

func translate(err error) error {
	var said *shimapi.Error
	switch {
	case errors.As(err, &said) && sentinels[said.Code] != nil:
		return fmt.Errorf("%w: %w", err, sentinels[said.Code])
	case errors.Is(err, shimapi.ErrGone) && !errors.Is(err, hypervisor.ErrHypervisorNotRunning):
		return fmt.Errorf("%w: %w", hypervisor.ErrHypervisorNotRunning, err)
	}
	return err
}

// wrap makes an error of an operation: "vz: pause web: …".
func (vm *VM) wrap(op string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, hypervisor.ErrHypervisorNotRunning):
		err = vm.proc.Absent(err)
	}
	return fmt.Errorf("vz: %s %s: %w", op, vm.Name, err)
}

// changeRecord replaces the record, if there is one. That it could not be written
// is logged: the VM runs on, and only what a restarted server knows of it suffers.
func (vm *VM) changeRecord(change func(*record)) {
	if err := vm.rec.ChangeAll(change); err != nil {
		vm.Log.Warn("record not written", "err", err)
	}
}

// record returns what the VM was started with, nil where that is not known.
func (vm *VM) record() *record { return vm.rec.Get() }

// Identify tells whose shim it is, as that says itself, and its process.
func (vm *VM) Identify(ctx context.Context) (hypervisor.Identity, error) {
	var info shimapi.Info
	err := vm.call(ctx, shimapi.MethodInfo, nil, &info) // one that hangs is not to be told by what it once said
	var said shimapi.Welcome
	if err == nil {
		var api *shimapi.Client
		if api, err = vm.client(ctx); err == nil {
			said, err = api.Welcome(ctx)
		}
	}
	if err != nil {
		return hypervisor.Identity{}, vm.wrap("identify", translate(err))
	}
	return hypervisor.Identity{Name: said.Name, UUID: said.UUID, PID: vm.proc.PID}, nil
}

// Describe tells what runs the VM.
func (vm *VM) Describe() []hypervisor.Detail {
	rec := vm.record()
	if rec == nil || rec.Report == nil {
		return nil
	}
	h := rec.Report.Host
	return []hypervisor.Detail{{Key: "framework", Value: h.Engine + " " + h.Version}}
}
