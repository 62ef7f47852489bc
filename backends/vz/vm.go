package vz

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"vmfs/backends/gate"
	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
	"vmfs/backends/rundir"
	"vmfs/backends/vz/shimapi"
	"vmfs/guest/control"
	"vmfs/internal/queue"
)

// A VM is the handle on one shim.
type VM struct {
	dir   runDir
	name  string
	proc  process.Process
	child *process.Child // nil where another server started it
	log   *slog.Logger
	rec   *rundir.Kept[record, *record]

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // what the handle runs beside its callers
	events *queue.Queue[hypervisor.Event]
	gone   chan struct{} // closed when the process has ended; exit is set then
	exit   string        // how it ended, where that is known

	gate gate.Gate // held while a snapshot is written

	asking sync.Mutex // held while the agent is dialed; before mu

	mu        sync.Mutex // guards the fields below
	closed    bool
	api       *shimapi.Client // replaced when the shim has hung up
	caps      hypervisor.Capabilities
	held      bool   // a snapshot has stopped it, and will let it go on
	endReason string // why the guest ended, once it has
	told      bool   // GetVMInfo has told of the guest's end, see Shutdown
	ordered   bool   // Shutdown has been called
	agent     *control.Client
	noAgent   time.Time // until when an agent that did not answer is not asked for nothing
	memory    int64     // the guest's, when its agent was asked last; 0 is not known
	untrack   func()    // ends what tracks the guest's way to a target; nil is nothing
}

var (
	_ hypervisor.Hypervisor  = (*VM)(nil)
	_ hypervisor.EventSource = (*VM)(nil)
	_ hypervisor.Console     = (*VM)(nil)
	_ hypervisor.Identifier  = (*VM)(nil)
	_ hypervisor.VsockSource = (*VM)(nil)
	_ hypervisor.Describer   = (*VM)(nil)
)

// maxEvents bounds the events that wait for a consumer who does not receive.
const maxEvents = 4096

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
	vm := &VM{
		dir: dir, name: dir.VM(), api: api, proc: proc, child: c, log: s.log,
		events: queue.NewSized(maxEvents, hypervisor.MaxEventBytes, hypervisor.Event.Size, hypervisor.LostEvents), gone: make(chan struct{}),
		rec: rundir.Keep(dir.Dir, rec),
	}
	if rec != nil {
		vm.name = cmp.Or(rec.Config.Name, vm.name)
		vm.held, vm.memory = rec.Resume, rec.Memory
		if rec.Report != nil {
			vm.caps = capabilities(rec.Report.Host, rec.Report.Support)
		}
	}
	vm.ctx, vm.cancel = context.WithCancel(context.Background())
	vm.wg.Go(vm.watch)
	vm.wg.Go(vm.follow)
	return vm, nil
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

// exitWait is how long it may take until a process that has ended, or has hung up, is known
// to have ended.
const exitWait = time.Second

// Close gives up the connection and leaves the shim as it is.
func (vm *VM) Close() error {
	vm.mu.Lock()
	vm.closed = true
	api, agent := vm.api, vm.agent
	vm.mu.Unlock()
	vm.cancel()
	_ = api.Close() // what was asked is gone through with
	if agent != nil {
		_ = agent.Close() // nothing is asked
	}
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
	case <-vm.gone:
		return nil, shimapi.ErrGone
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, exitWait)
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
		err = vm.absent(err)
	}
	return fmt.Errorf("vz: %s %s: %w", op, vm.name, err)
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
		// It is not wrapped: the shim runs.
		return fmt.Errorf("process %d runs, but does not answer on its socket any more; it can only be killed: %v", vm.proc.PID, err)
	case <-vm.ctx.Done():
		return net.ErrClosed
	}
}

// over tells whether the shim has ended.
func (vm *VM) over() bool {
	select {
	case <-vm.gone:
		return true
	default:
		return false
	}
}

// changeRecord replaces the record, if there is one. That it could not be written
// is logged: the VM runs on, and only what a restarted server knows of it suffers.
func (vm *VM) changeRecord(change func(*record)) {
	if err := vm.rec.ChangeAll(change); err != nil {
		vm.log.Warn("record not written", "vm", vm.name, "err", err)
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
