package qemu

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"time"

	"vmfs/backends/handle"
	"vmfs/backends/hypervisor"
	"vmfs/backends/qemu/qmp"
	"vmfs/backends/serial"
	"vmfs/internal/unixsock"
)

// An eventRule is what one of QEMU's events means. An event without a rule is not
// reported.
type eventRule struct {
	kind hypervisor.EventKind
	// state and reason are those of the VM after the event, where they are always
	// the same.
	state  hypervisor.VMState
	reason string
	// when holds state and reason back unless the event's data has this value.
	when struct{ key, value string }
	// detail are the data that are told, by QEMU's name and ours.
	detail []renamed
	// more does what else is to be done, and completes the event.
	more func(vm *VM, data map[string]any, e *hypervisor.Event)
}

type renamed struct{ qemu, ours string }

// eventRules has every event of QEMU's that is reported.
var eventRules = map[string]eventRule{
	"STOP":     {kind: hypervisor.EventPaused, state: hypervisor.StatePaused, more: (*VM).stopped},
	"RESUME":   {kind: hypervisor.EventRunning, state: hypervisor.StateRunning, more: (*VM).resumed},
	"SUSPEND":  {kind: hypervisor.EventPaused, state: hypervisor.StatePaused, reason: reasonSuspended, more: (*VM).fellAsleep},
	"WAKEUP":   {kind: hypervisor.EventRunning, state: hypervisor.StateRunning, more: (*VM).resumed},
	"RESET":    {kind: hypervisor.EventReset, detail: []renamed{{"reason", "by"}}, more: (*VM).wasReset},
	"SHUTDOWN": {kind: hypervisor.EventShutdown, state: hypervisor.StateShutdown, more: (*VM).ended},
	"POWERDOWN": {
		kind: hypervisor.EventPowerdown,
	},
	"GUEST_PANICKED": {
		kind: hypervisor.EventPanicked, state: hypervisor.StatePaused, reason: handle.ReasonPanicked,
		when: struct{ key, value string }{"action", "pause"}, more: (*VM).panicked,
	},
	"GUEST_CRASHLOADED": {kind: hypervisor.EventPanicked, detail: []renamed{{"action", "action"}}, more: (*VM).panicked},
	"WATCHDOG": {
		kind: hypervisor.EventWatchdog, state: hypervisor.StatePaused, reason: reasonWatchdog,
		when: struct{ key, value string }{"action", "pause"}, detail: []renamed{{"action", "action"}},
	},
	"BLOCK_IO_ERROR": {
		kind: hypervisor.EventIOError, state: hypervisor.StatePaused, reason: reasonIOError,
		when: struct{ key, value string }{"action", "stop"},
		detail: []renamed{
			{"node-name", "disk"}, {"operation", "operation"}, {"action", "action"}, {"nospace", "nospace"}, {"reason", "error"},
		},
	},
	"MEMORY_DEVICE_SIZE_CHANGE":  {kind: hypervisor.EventMemory, more: (*VM).memoryChanged},
	"BALLOON_CHANGE":             {kind: hypervisor.EventMemory, more: (*VM).memoryChanged},
	"NETDEV_STREAM_DISCONNECTED": {kind: hypervisor.EventNetwork, detail: []renamed{{"netdev-id", "network"}}},
}

// lostRule is for the events of QEMU's that were lost here.
var lostRule = eventRule{kind: hypervisor.EventLost, detail: []renamed{{"n", "n"}}, more: (*VM).lostEvents}

// follow takes QEMU's events until the connection ends. It never waits for the
// consumer of the handle's own.
func (vm *VM) follow(sub *qmp.Subscription) {
	defer vm.Queue.End(net.ErrClosed)
	vm.catchUp()
	for {
		ev, err := sub.Next(vm.Life)
		if err != nil {
			vm.lost(err)
			return
		}
		vm.translate(ev)
	}
}

// translate reports one of QEMU's events.
func (vm *VM) translate(ev qmp.Event) {
	rule, ok := eventRules[ev.Event]
	if ev.Event == qmp.EventLost {
		rule, ok = lostRule, true
	}
	if !ok {
		return
	}
	e := hypervisor.Event{
		Kind: rule.kind,
		Time: time.Unix(ev.Timestamp.Seconds, ev.Timestamp.Microseconds*1000),
	}
	if rule.when.key == "" || ev.Data[rule.when.key] == rule.when.value {
		e.State, e.Reason = rule.state, rule.reason
	}
	for _, d := range rule.detail {
		if v, ok := ev.Data[d.qemu]; ok {
			e.Detail = append(e.Detail, hypervisor.Detail{Key: d.ours, Value: text(v)})
		}
	}
	if rule.more != nil {
		rule.more(vm, ev.Data, &e)
	}
	vm.Tell(e)
}

// text is a value of QEMU's data as text.
func text(v any) string {
	if f, ok := v.(float64); ok {
		return strconv.FormatFloat(f, 'f', -1, 64)
	}
	return fmt.Sprint(v)
}

// stopped asks why, since the event does not say; what comes after the guest's end
// is not told twice.
func (vm *VM) stopped(_ map[string]any, e *hypervisor.Event) {
	vm.mu.Lock()
	unsaid := vm.unsaid > 0
	if unsaid {
		vm.unsaid--
	}
	vm.mu.Unlock()
	if unsaid || vm.Ended() {
		*e = hypervisor.Event{}
		return
	}
	if s, ok := vm.learn(); ok && s.state == hypervisor.StatePaused {
		e.Reason = s.reason
	}
}

func (vm *VM) resumed(_ map[string]any, e *hypervisor.Event) {
	vm.mu.Lock()
	vm.suspended = false
	unsaid := vm.unsaid > 0
	vm.mu.Unlock()
	if unsaid {
		*e = hypervisor.Event{}
	}
	vm.SetRan()
}

func (vm *VM) fellAsleep(map[string]any, *hypervisor.Event) {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	vm.suspended = true
}

// lostEvents finds out what the VM does, of which those that were lost may have told.
func (vm *VM) lostEvents(_ map[string]any, e *hypervisor.Event) {
	vm.wakeWaiters()
	vm.tellState(e)
}

// wasReset tells who did it, and the state: a VM that stood still for a reason
// stands still without one after a reset.
func (vm *VM) wasReset(data map[string]any, e *hypervisor.Event) {
	e.Detail = append(e.Detail, hypervisor.Detail{Key: "guest", Value: text(data["guest"])})
	vm.tellState(e)
}

// tellState completes an event that does not say what the VM does after it.
func (vm *VM) tellState(e *hypervisor.Event) {
	if s, ok := vm.learn(); ok {
		e.State, e.Reason = s.state, s.reason
	}
}

// learn asks for the state, which QEMU may not tell.
func (vm *VM) learn() (s runState, ok bool) {
	err := vm.Ask(func(ctx context.Context) error {
		status, err := vm.status(ctx)
		s = vm.meaning(status)
		return err
	})
	return s, err == nil
}

// ended is the guest's end, or QEMU's. A QEMU whose guest has ended is told to go;
// that it then reports its own end is not told again.
func (vm *VM) ended(data map[string]any, e *hypervisor.Event) {
	e.Reason = text(data["reason"])
	var quit func(context.Context) error
	if data["guest"] == true {
		quit = vm.quit
	}
	vm.GuestEnded(e, quit)
}

// panicked tells what the guest said of its crash, where it says more than that.
func (vm *VM) panicked(data map[string]any, e *hypervisor.Event) {
	info, _ := data["info"].(map[string]any)
	for _, key := range slices.Sorted(maps.Keys(info)) {
		e.Detail = append(e.Detail, hypervisor.Detail{Key: key, Value: text(info[key])})
	}
}

// memoryChanged wakes those who wait for a size, and tells it.
func (vm *VM) memoryChanged(_ map[string]any, e *hypervisor.Event) {
	vm.wakeWaiters()
	var actual int64
	err := vm.Ask(func(ctx context.Context) (err error) {
		actual, err = vm.actualMemory(ctx)
		return err
	})
	if err != nil {
		*e = hypervisor.Event{}
		return
	}
	e.Detail = append(e.Detail, hypervisor.Detail{Key: "actual", Value: strconv.FormatInt(actual, 10)})
}

// catchUp learns what happened before the handle was there: a guest that has
// ended and whose QEMU waits for somebody to be told, one that sleeps, one that
// was paused for a snapshot by a server that died.
func (vm *VM) catchUp() {
	status, err := vm.status(vm.Life) // as long as the handle is there
	if err != nil {
		return
	}
	vm.findProcess(true)
	if vm.Child == nil {
		if vm.Held() {
			vm.Spawn(vm.recoverSnapshot)
		}
		vm.settleRestore(status)
	}
	switch s := vm.meaning(status); {
	case s.reason == reasonSuspended:
		vm.fellAsleep(nil, nil)
	case s.state == hypervisor.StateShutdown:
		e := hypervisor.Event{Kind: hypervisor.EventShutdown, Time: time.Now(), State: s.state}
		vm.ended(map[string]any{"reason": s.reason, "guest": true}, &e)
		vm.Tell(e)
	}
}

// exitWait is how long QEMU may take from closing its socket to its end.
const exitWait = 5 * time.Second

// lost is the end of the connection. A QEMU that ended without a word is reported.
func (vm *VM) lost(err error) {
	if !errors.Is(err, qmp.ErrDisconnected) {
		if vm.Life.Err() == nil {
			vm.Log.Error("QMP connection lost", "err", err)
		}
		return
	}
	exit, ended := vm.awaitEnd()
	if !ended {
		return // it lives: only the connection is gone
	}
	serial.Settle(vm.Life, vm.dir.console()) // who is told may look what was said last
	vm.VMMEnded(exit)
}

// awaitEnd waits for the end of QEMU's process, and says how it ended if that can
// be known.
func (vm *VM) awaitEnd() (exit string, ended bool) {
	if vm.Child != nil {
		err := vm.Child.Await(vm.Life, exitWait)
		return vm.Child.How(), err == nil
	}
	ctx, cancel := context.WithTimeout(vm.Life, exitWait)
	defer cancel()
	vm.mu.Lock()
	proc := vm.proc
	vm.mu.Unlock()
	if proc.IsZero() {
		served, err := unixsock.Served(vm.dir.Control())
		return "", err == nil && !served
	}
	how, err := proc.WaitExit(ctx)
	return how.String(), err == nil
}
