package vz

import (
	"context"
	"errors"
	"net"
	"strconv"
	"time"

	"vmfs/backends/hypervisor"
	"vmfs/backends/snapshot"
	"vmfs/backends/vz/shimapi"
	"vmfs/internal/wait"
)

// The reasons of VMInfo and of events, beside the shim's own.
const (
	reasonPrelaunch = "prelaunch" // started, and the guest not yet let run
	reasonSnapshot  = "snapshot"  // paused while a snapshot is written
)

// A vmState is what a phase of the shim's means.
type vmState struct {
	state  hypervisor.VMState
	reason string
}

// states has every phase of a shim's.
var states = map[shimapi.Phase]vmState{
	shimapi.PhaseMaking:  {hypervisor.StateCreated, reasonPrelaunch},
	shimapi.PhaseCreated: {hypervisor.StateCreated, reasonPrelaunch},
	shimapi.PhaseRunning: {hypervisor.StateRunning, ""},
	shimapi.PhasePaused:  {hypervisor.StatePaused, ""},
	shimapi.PhaseEnded:   {hypervisor.StateShutdown, ""},
}

// meaning is what the shim's words mean for this VM.
func (vm *VM) meaning(info shimapi.Info) vmState {
	s, ok := states[info.Phase]
	if !ok {
		s = vmState{hypervisor.StatePaused, string(info.Phase)} // of a later shim: the guest does not run
	}
	if info.Reason != "" {
		s.reason = info.Reason
	}
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if s.state == hypervisor.StatePaused && vm.held {
		s.reason = reasonSnapshot
	}
	return s
}

// status asks for the state and what goes with it.
func (vm *VM) status(ctx context.Context) (vmState, shimapi.Info, error) {
	var info shimapi.Info
	if err := vm.call(ctx, shimapi.MethodInfo, nil, &info); err != nil {
		return vmState{}, info, err
	}
	return vm.meaning(info), info, nil
}

// kinds has every kind of a shim's events that is reported, with the state after it.
var kinds = map[shimapi.EventKind]struct {
	kind  hypervisor.EventKind
	state hypervisor.VMState
}{
	shimapi.EventRunning:  {hypervisor.EventRunning, hypervisor.StateRunning},
	shimapi.EventPaused:   {hypervisor.EventPaused, hypervisor.StatePaused},
	shimapi.EventEnded:    {hypervisor.EventShutdown, hypervisor.StateShutdown},
	shimapi.EventPowerOff: {hypervisor.EventPowerdown, ""},
	shimapi.EventNetwork:  {hypervisor.EventNetwork, ""},
	shimapi.EventLost:     {hypervisor.EventLost, ""},
}

// Events returns the channel of the VM's events: what no handle before has reported.
func (vm *VM) Events() <-chan hypervisor.Event { return vm.events.Chan() }

// follow takes what the shim tells until it is gone. It never waits for the consumer of the
// handle's own.
func (vm *VM) follow() {
	defer vm.events.End(net.ErrClosed)
	if vm.child == nil {
		vm.spawn(vm.catchUp)
	}
	var seen uint64
	if rec := vm.record(); rec != nil {
		seen = rec.Seen
	}
	again := wait.Backoff{First: 10 * time.Millisecond, Most: time.Second}
	for {
		err := vm.take(&seen)
		if vm.ctx.Err() != nil {
			return
		}
		select {
		case <-vm.gone:
			vm.lost()
			return
		default:
		}
		var said *shimapi.Error
		if errors.As(err, &said) && said.Code == shimapi.CodeInvalid {
			seen = 0 // the record is of another shim's events
		}
		timer := time.NewTimer(again.Next())
		select {
		case <-timer.C:
		case <-vm.gone:
		case <-vm.ctx.Done():
		}
		timer.Stop()
	}
}

// take reports the events behind a number for as long as the connection is there.
func (vm *VM) take(seen *uint64) error {
	api, err := vm.client(vm.ctx)
	if err != nil {
		return err
	}
	if err := api.Call(vm.ctx, shimapi.MethodEvents, shimapi.After{Seq: *seen}, nil); err != nil {
		return err
	}
	for {
		e, err := api.NextEvent(vm.ctx)
		if err != nil {
			return err
		}
		vm.report(e)
		*seen = e.Seq
		vm.changeRecord(func(r *record) { r.Seen = e.Seq })
	}
}

// report reports one of the shim's events.
func (vm *VM) report(e shimapi.Event) {
	k, ok := kinds[e.Kind]
	if !ok {
		vm.log.Info("event of the shim", "vm", vm.name, "kind", e.Kind, "detail", e.Detail)
		return
	}
	out := hypervisor.Event{Kind: k.kind, Time: e.Time, State: k.state, Reason: e.Reason}
	switch e.Kind {
	case shimapi.EventPaused:
		out.Reason = vm.meaning(shimapi.Info{Phase: shimapi.PhasePaused}).reason
	case shimapi.EventEnded:
		if !vm.ended(e.Reason) {
			return
		}
	case shimapi.EventLost:
		n, _ := strconv.Atoi(e.Detail) // without a number it is one
		out = hypervisor.LostEvents(max(n, 1), hypervisor.Event{Time: e.Time})
	}
	if e.Detail != "" && e.Kind != shimapi.EventLost {
		out.Detail = []hypervisor.Detail{{Key: "message", Value: e.Detail}}
	}
	vm.events.Put(out)
}

// ended is the guest's end, which is told once. A shim whose guest has ended is still there,
// and told to go.
func (vm *VM) ended(reason string) (first bool) {
	vm.mu.Lock()
	first = vm.endReason == ""
	if first {
		vm.endReason = reason
	}
	stays := !vm.ordered
	vm.mu.Unlock()
	if first && stays {
		vm.spawn(vm.sendAway)
	}
	return first
}

// sendAway ends a shim whose guest has ended.
func (vm *VM) sendAway() {
	err := vm.call(vm.ctx, shimapi.MethodQuit, nil, nil)
	if err != nil && vm.ctx.Err() == nil && !errors.Is(err, hypervisor.ErrHypervisorNotRunning) {
		vm.log.Warn("a vz-shim does not end after its guest", "vm", vm.name, "err", err)
	}
}

// catchUp deals with what an earlier server has left half done.
func (vm *VM) catchUp() {
	// As long as the handle is there: a shim that hangs answers later.
	s, info, err := vm.status(vm.ctx)
	if err != nil {
		return
	}
	rec := vm.record()
	if rec == nil {
		return
	}
	if rec.Report == nil && info.Phase != shimapi.PhaseMaking {
		_ = vm.learn(vm.ctx) // without it the VM can do less
	}
	if rec.Resume {
		vm.saver().Recover(func(context.Context) error { return nil })
	}
	if s.state == hypervisor.StateRunning || s.state == hypervisor.StatePaused {
		snapshot.Settle(vm.log.With("vm", vm.name), vm.dir.Swap())
	}
	if s.state == hypervisor.StateShutdown && vm.ended(s.reason) {
		// Its event has been reported by a server that did not live to send it away.
		vm.events.Put(hypervisor.Event{Kind: hypervisor.EventShutdown, Time: time.Now(), State: s.state, Reason: s.reason})
	}
}

// lost is the end of the process. One that ended without a word is reported.
func (vm *VM) lost() {
	vm.mu.Lock()
	told := vm.endReason != ""
	if !told {
		vm.endReason = hypervisor.ReasonVMMDied
	}
	vm.mu.Unlock()
	if told {
		return
	}
	e := hypervisor.Event{Kind: hypervisor.EventShutdown, Time: time.Now(), State: hypervisor.StateShutdown, Reason: hypervisor.ReasonVMMDied}
	if vm.exit != "" {
		e.Detail = []hypervisor.Detail{{Key: "exit", Value: vm.exit}}
	}
	vm.events.Put(e)
}
