package cloudhypervisor

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"vmfs/backends/cloudhypervisor/api"
	"vmfs/backends/handle"
	"vmfs/backends/hypervisor"
	"vmfs/backends/serial"
	"vmfs/internal/regular"
	"vmfs/internal/wait"
)

// An eventRule is what one of Cloud Hypervisor's events means. An event without a rule is not
// reported.
type eventRule struct {
	kind hypervisor.EventKind // "" is not reported: it only matters to the handle
	// state is that of the VM after the event, where it is always the same.
	state hypervisor.VMState
	// note keeps what the handle has to know of it, also of what was before the handle.
	note func(vm *VM, ev api.Event)
	// more does what else is to be done, and completes the event.
	more func(vm *VM, ev api.Event, e *hypervisor.Event)
}

// eventRules has every event of Cloud Hypervisor's that counts, by source and name.
var eventRules = map[string]eventRule{
	"vm booted":   {kind: hypervisor.EventRunning, state: hypervisor.StateRunning, note: (*VM).noteRuns},
	"vm resumed":  {kind: hypervisor.EventRunning, state: hypervisor.StateRunning, note: (*VM).noteRuns},
	"vm restored": {note: (*VM).noteRuns},
	"vm paused":   {kind: hypervisor.EventPaused, state: hypervisor.StatePaused, more: (*VM).paused},
	"vm rebooted": {kind: hypervisor.EventReset, note: (*VM).noteRuns, more: (*VM).wasReset},
	"vm shutdown": {kind: hypervisor.EventShutdown, state: hypervisor.StateShutdown, more: (*VM).ended},
	"guest panic": {kind: hypervisor.EventPanicked, note: (*VM).notePanic, more: (*VM).crashed},
}

const (
	// maxEventFile is how large the file of events gets while somebody reads it. The guest
	// makes some of them.
	maxEventFile = 1 << 20
	// The file is looked at this often: after an order at once, and then less and less, until
	// there is an event.
	readFirst, readMost = 2 * time.Millisecond, 250 * time.Millisecond
)

// openEvents opens the file of events, and says how large it is now. Without one the file is
// nil, of which reading fails.
func (vm *VM) openEvents() (file *os.File, size int64) {
	file, err := regular.OpenFile(vm.dir.events(), os.O_RDWR, 0)
	if err == nil {
		var fi os.FileInfo
		if fi, err = file.Stat(); err == nil {
			return file, fi.Size()
		}
		_ = file.Close() // it was read alone
	}
	vm.Log.Error("what happens to a VM is not known", "err", err)
	return nil, 0
}

// follow takes what Cloud Hypervisor writes into its file of events until it is gone. What is
// within past is not reported. It never waits for the consumer of the handle's own.
func (vm *VM) follow(file *os.File, past int64) {
	defer vm.Queue.End(net.ErrClosed)
	defer file.Close() // where it is nil that is an error, which says nothing
	if vm.Child == nil {
		before := api.NewDecoder(io.NewSectionReader(file, 0, past))
		vm.read(before, func(ev api.Event) { vm.note(ev) })
		_, _ = file.Seek(before.Offset(), io.SeekStart) // never fails for a file
		vm.catchUp()
	}
	events := api.NewDecoder(file)
	for next := (&wait.Backoff{First: readFirst, Most: readMost}); ; {
		gone := false
		select {
		case <-vm.proc.Gone():
			gone = true // what is read from here on is all
		default:
		}
		told := false
		if vm.read(events, func(ev api.Event) { told = vm.translate(ev) || told }) > 0 {
			vm.lostSome()
		}
		if told {
			next.Settle() // what an order was to bring about has come, and nothing is waited for
		}
		switch {
		case gone:
			vm.lost()
			return
		case events.Offset() > maxEventFile:
			if file.Truncate(0) == nil {
				_, _ = file.Seek(0, io.SeekStart)
				events = api.NewDecoder(file)
				vm.lostSome() // one may have come between
			}
		}
		if !vm.pauseReading(next) {
			return
		}
	}
}

// read takes the events that there are, and returns how often some were cut.
func (vm *VM) read(events *api.Decoder, take func(api.Event)) (cut int) {
	for {
		switch ev, err := events.Next(); {
		case err == nil:
			take(ev)
		case errors.Is(err, api.ErrCut):
			cut++
		default: // the end, for now
			return cut
		}
	}
}

// note keeps what the handle has to know of an event.
func (vm *VM) note(ev api.Event) eventRule {
	rule := eventRules[ev.Source+" "+ev.Name]
	if rule.note != nil {
		rule.note(vm, ev)
	}
	return rule
}

// translate reports one of Cloud Hypervisor's events, if it is one to be reported.
func (vm *VM) translate(ev api.Event) (told bool) {
	rule := vm.note(ev)
	if rule.kind == "" || vm.isUnsaid(ev) {
		return false
	}
	e := hypervisor.Event{Kind: rule.kind, Time: vm.timeOf(ev), State: rule.state}
	if rule.more != nil {
		rule.more(vm, ev, &e)
	}
	vm.Tell(e)
	return true
}

// timeOf is when an event happened.
func (vm *VM) timeOf(ev api.Event) time.Time {
	if rec := vm.record(); rec != nil {
		return rec.Time.Add(ev.Time)
	}
	return time.Now()
}

// noteRuns is a guest that runs, from its start or on.
func (vm *VM) noteRuns(api.Event) {
	vm.SetRan()
	vm.mu.Lock()
	defer vm.mu.Unlock()
	vm.panicked = false
}

// notePanic is a guest that says that it crashed, and not that another kernel is to look at
// that now.
func (vm *VM) notePanic(ev api.Event) {
	if ev.Properties["event"] == "panic" {
		vm.mu.Lock()
		defer vm.mu.Unlock()
		vm.panicked = true
	}
}

// crashed has a guest that crashed stand still: for Cloud Hypervisor it runs.
func (vm *VM) crashed(_ api.Event, e *hypervisor.Event) {
	vm.mu.Lock()
	panicked := vm.panicked
	vm.mu.Unlock()
	if !panicked {
		return
	}
	if err := vm.Ask(vm.pause); err != nil && vm.Life.Err() == nil {
		vm.Log.Warn("the guest has panicked and cannot be paused", "err", err)
	}
	vm.tellState(e)
}

// paused tells why.
func (vm *VM) paused(_ api.Event, e *hypervisor.Event) { e.Reason = vm.meaning(api.StatePaused).reason }

// wasReset tells the state: a VM that stood still does again.
func (vm *VM) wasReset(_ api.Event, e *hypervisor.Event) { vm.tellState(e) }

// tellState completes an event that does not say what the VM does after it.
func (vm *VM) tellState(e *hypervisor.Event) {
	_ = vm.Ask(func(ctx context.Context) error { // without an answer it is told without a state
		s, _, err := vm.status(ctx)
		if err == nil {
			e.State, e.Reason = s.state, s.reason
		}
		return err
	})
}

// lostSome tells that events were lost, and the state that they may have told.
func (vm *VM) lostSome() {
	vm.mu.Lock()
	vm.unsaid = 0 // they may be among those
	vm.mu.Unlock()
	e := hypervisor.LostEvents(1, hypervisor.Event{Time: time.Now()})
	vm.tellState(&e)
	if e.State == hypervisor.StateShutdown {
		vm.ended(api.Event{}, &e)
		if e.Kind != "" {
			e.Kind = hypervisor.EventShutdown
		}
	}
	vm.Tell(e)
}

// ended is the guest's end, or the VMM's. A VMM whose guest has ended is still there, and told
// to go.
func (vm *VM) ended(_ api.Event, e *hypervisor.Event) {
	stays := !vm.Ordered() && vm.Ask(func(ctx context.Context) error { _, _, err := vm.status(ctx); return err }) == nil
	e.State, e.Reason = hypervisor.StateShutdown, reasonVMMShutdown
	var quit func(context.Context) error
	if stays {
		e.Reason, quit = handle.ReasonGuestShutdown, vm.client.ShutdownVMM
	}
	vm.GuestEnded(e, quit)
}

// catchUp learns what happened before the handle was there and is still to be dealt with: a
// guest that has ended and whose VMM waits for somebody to be told, one that has panicked and
// goes on.
func (vm *VM) catchUp() {
	// As long as the handle is there: a VMM that hangs answers later.
	s, _, err := vm.status(vm.Life)
	if err != nil {
		return
	}
	if vm.Held() {
		vm.Spawn(vm.recoverSnapshot)
	}
	if s.state != hypervisor.StateCreated {
		vm.settleRestore()
	}
	e := hypervisor.Event{Time: time.Now()}
	switch {
	case s.state == hypervisor.StateShutdown:
		e.Kind = hypervisor.EventShutdown
		vm.ended(api.Event{}, &e)
	case s.state == hypervisor.StateRunning:
		vm.SetRan()
		vm.mu.Lock()
		panicked := vm.panicked
		vm.mu.Unlock()
		if panicked {
			e.Kind = hypervisor.EventPanicked
			vm.crashed(api.Event{}, &e)
		}
	case s.state == hypervisor.StatePaused:
		vm.SetRan()
	}
	vm.Tell(e)
}

// lost is the end of the process. One that ended without a word is reported.
func (vm *VM) lost() {
	serial.Settle(vm.Life, serial.ConsolePath(vm.dir.Dir)) // who is told may look what was said last
	vm.VMMEnded(vm.proc.Exit())
}
