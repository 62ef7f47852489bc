package sim

import (
	"net"
	"sync"
	"time"

	"vmfs/backends/hypervisor"
)

// The words for VMInfo.Reason and Event.Reason.
const (
	ReasonPanicked      = "guest-panicked"
	ReasonIOError       = "io-error"
	ReasonGuestShutdown = "guest-shutdown"
	ReasonHostQuit      = "host-quit"
	ReasonGuestReset    = "guest-reset"
	ReasonHostReset     = "host-reset"
)

// A VM is one simulated VMM with its guest. Tests get at it by World.VM.
type VM struct {
	world      *World
	socketPath string
	config     hypervisor.VMConfig
	set        settings

	mu      sync.Mutex // guards all below, and the streams and consoles of the VM
	cond    sync.Cond  // of mu: something changed that a call may wait for
	gone    bool       // the VMM has ended
	state   hypervisor.VMState
	reason  string
	faults  []Fault
	handles map[*Handle]struct{}
	timers  map[*time.Timer]struct{}

	// What the guest is and does.
	boots    int      // counts resets, so that what an earlier boot had begun is dropped
	deferred []func() // what the guest does when it runs again
	booted   bool
	asked    bool                    // to power off
	disks    []hypervisor.DiskConfig // replaced when one grows
	target   int64
	actual   int64
	moving   bool // memory follows in steps
	note     string
	typed    []byte // console input that the guest has not read
	line     []byte // the line being typed
	console  *console
	streams  map[*stream]struct{}

	listeners map[int]*listener // of the host, by port
}

func newVM(w *World, socketPath string, c hypervisor.VMConfig, set settings) *VM {
	vm := &VM{
		world: w, socketPath: socketPath, config: c, set: set,
		state:  hypervisor.StateCreated,
		disks:  c.Disks,
		target: c.MemoryBytes, actual: c.MemoryBytes,
	}
	vm.cond.L = &vm.mu
	return vm
}

// SocketPath returns the path by which the VM is found.
func (vm *VM) SocketPath() string { return vm.socketPath }

// World returns where the VM lives.
func (vm *VM) World() *World { return vm.world }

// Config returns what the VM was started with.
func (vm *VM) Config() hypervisor.VMConfig { return vm.config }

func (vm *VM) name() string { return nameOf(vm.config, vm.socketPath) }

// All methods below are called with vm.mu held, but for crash.

// crash ends the VMM without a word.
func (vm *VM) crash() {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if !vm.gone {
		vm.end(nil)
	}
}

func (vm *VM) start() {
	vm.state = hypervisor.StateRunning
	vm.emit(hypervisor.Event{Kind: hypervisor.EventRunning, State: vm.state})
	vm.boot()
}

func (vm *VM) restore(m *manifest) {
	vm.state = hypervisor.StatePaused
	vm.reason = m.Reason
	vm.target, vm.actual = m.Target, m.Actual
	vm.booted, vm.note = m.Booted, m.note
	vm.emit(hypervisor.Event{Kind: hypervisor.EventPaused, State: vm.state, Reason: vm.reason})
	if !vm.booted && vm.reason != ReasonPanicked {
		vm.after(vm.set.bootTime, vm.ready)
	}
}

// emit tells every handle of an event.
func (vm *VM) emit(e hypervisor.Event) {
	e.Time = time.Now()
	for h := range vm.handles {
		h.events.Put(e)
	}
}

// end ends the VMM, with a last event if there is one.
func (vm *VM) end(last *hypervisor.Event) {
	if vm.gone {
		return
	}
	vm.gone = true
	vm.world.remove(vm)
	vm.state, vm.deferred, vm.typed = hypervisor.StateShutdown, nil, nil
	for t := range vm.timers {
		t.Stop()
	}
	vm.timers = nil
	why := "ends without a word"
	if last != nil {
		vm.emit(*last)
		why = "ends: " + last.Reason
	}
	vm.complain("sim: " + vm.name() + " " + why)
	for h := range vm.handles {
		h.events.End(net.ErrClosed)
	}
	vm.handles = nil
	vm.hangUp()
	vm.cond.Broadcast()
}

// endGuest is the guest's own end, which the VMM may outlive.
func (vm *VM) endGuest(reason string) {
	last := hypervisor.Event{Kind: hypervisor.EventShutdown, State: hypervisor.StateShutdown, Reason: reason}
	if !vm.set.linger {
		vm.end(&last)
		return
	}
	vm.stopGuest()
	vm.state, vm.reason = hypervisor.StateShutdown, reason
	vm.hangUpStreams()
	vm.emit(last)
	vm.cond.Broadcast()
}

// pause stops the guest for a reason, "" being a command.
func (vm *VM) pause(reason string) {
	vm.state, vm.reason = hypervisor.StatePaused, reason
	vm.emit(hypervisor.Event{Kind: hypervisor.EventPaused, State: vm.state, Reason: reason})
}

func (vm *VM) resume() {
	vm.state, vm.reason = hypervisor.StateRunning, ""
	vm.emit(hypervisor.Event{Kind: hypervisor.EventRunning, State: vm.state})
	vm.goOn()
}

// panicGuest lets the guest crash, which stops it until it is reset.
func (vm *VM) panicGuest() {
	if vm.gone || vm.state == hypervisor.StateShutdown {
		return
	}
	vm.print("\r\nKernel panic - not syncing: sim\r\n")
	vm.stopGuest()
	vm.emit(hypervisor.Event{Kind: hypervisor.EventPanicked, State: hypervisor.StatePaused, Reason: ReasonPanicked})
	vm.pause(ReasonPanicked)
}

// failDisk lets a disk fail, which stops the guest until it is resumed.
func (vm *VM) failDisk() {
	if vm.gone || vm.state == hypervisor.StateShutdown {
		return
	}
	vm.emit(hypervisor.Event{
		Kind: hypervisor.EventIOError, State: hypervisor.StatePaused, Reason: ReasonIOError,
		Detail: []hypervisor.Detail{{Key: "operation", Value: "write"}},
	})
	vm.pause(ReasonIOError)
}

// reset starts the guest anew. A paused VM stays paused, without its reason.
func (vm *VM) reset(reason string) {
	vm.stopGuest()
	vm.hangUpStreams()
	vm.reason, vm.note = "", ""
	vm.emit(hypervisor.Event{Kind: hypervisor.EventReset, State: vm.state, Reason: reason})
	if vm.actual != vm.config.MemoryBytes {
		vm.setActual(vm.config.MemoryBytes)
	}
	vm.boot()
}

// stopGuest drops all that the guest has begun.
func (vm *VM) stopGuest() {
	vm.boots++
	vm.deferred, vm.typed, vm.line = nil, nil, nil
	vm.booted, vm.asked, vm.moving = false, false, false
}

// guestRuns says whether the guest does anything.
func (vm *VM) guestRuns() bool {
	return !vm.gone && vm.state == hypervisor.StateRunning && !vm.frozen()
}

// timer calls f after d, unless the VMM has ended, with vm.mu held.
func (vm *VM) timer(d time.Duration, f func()) {
	if d <= 0 {
		f()
		return
	}
	var t *time.Timer
	t = time.AfterFunc(d, func() {
		vm.mu.Lock()
		defer vm.mu.Unlock()
		if vm.gone {
			return
		}
		delete(vm.timers, t)
		f()
	})
	if vm.timers == nil {
		vm.timers = make(map[*time.Timer]struct{})
	}
	vm.timers[t] = struct{}{}
}

// after lets the guest do f after d, or once it runs after that. A reset drops it.
func (vm *VM) after(d time.Duration, f func()) {
	boots := vm.boots
	vm.timer(d, func() {
		if vm.boots != boots {
			return
		}
		if !vm.guestRuns() {
			vm.deferred = append(vm.deferred, f)
			return
		}
		f()
	})
}

// goOn lets a guest that runs again do what it had put off.
func (vm *VM) goOn() {
	for vm.guestRuns() && len(vm.deferred) > 0 {
		f := vm.deferred[0]
		vm.deferred = vm.deferred[1:]
		f()
	}
	if len(vm.deferred) == 0 {
		vm.deferred = nil
	}
	vm.follow()
	vm.readConsole()
	for s := range vm.streams {
		s.move()
	}
	if vm.guestRuns() {
		vm.cond.Broadcast() // dials wait for it
	}
}
