package vz

import (
	"context"
	"errors"
	"net"
	"strconv"
	"time"

	"vmfs/backends/handle"
	"vmfs/backends/hypervisor"
	"vmfs/backends/snapshot"
	"vmfs/backends/vz/shimapi"
	"vmfs/internal/wait"
)

// A vmState is what a phase of the shim's means.
type vmState struct {
	state  hypervisor.VMState
	reason string
}

// states has every phase of a shim's.
var states = map[shimapi.Phase]vmState{
	shimapi.PhaseMaking:  {hypervisor.StateCreated, handle.ReasonPrelaunch},
	shimapi.PhaseCreated: {hypervisor.StateCreated, handle.ReasonPrelaunch},
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
	s.reason = vm.Reason(s.state, s.reason)
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

// follow takes what the shim tells until it is gone. It never waits for the consumer of the
// handle's own.
func (vm *VM) follow() {
	defer vm.Queue.End(net.ErrClosed)
	if vm.Child == nil {
		vm.Spawn(vm.catchUp)
	}
	var seen uint64
	if rec := vm.record(); rec != nil {
		seen = rec.Seen
	}
	again := wait.Backoff{First: 10 * time.Millisecond, Most: time.Second}
	for {
		err := vm.take(&seen)
		if vm.Life.Err() != nil {
			return
		}
		select {
		case <-vm.proc.Gone():
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
		case <-vm.proc.Gone():
		case <-vm.Life.Done():
		}
		timer.Stop()
	}
}

// take reports the events behind a number for as long as the connection is there.
func (vm *VM) take(seen *uint64) error {
	api, err := vm.client(vm.Life)
	if err != nil {
		return err
	}
	if err := api.Call(vm.Life, shimapi.MethodEvents, shimapi.After{Seq: *seen}, nil); err != nil {
		return err
	}
	for {
		e, err := api.NextEvent(vm.Life)
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
		vm.Log.Info("event of the shim", "kind", e.Kind, "detail", e.Detail)
		return
	}
	out := hypervisor.Event{Kind: k.kind, Time: e.Time, State: k.state, Reason: e.Reason}
	switch e.Kind {
	case shimapi.EventPaused:
		out.Reason = vm.meaning(shimapi.Info{Phase: shimapi.PhasePaused}).reason
	case shimapi.EventEnded:
		vm.ended(&out)
	case shimapi.EventLost:
		n, _ := strconv.Atoi(e.Detail) // without a number it is one
		out = hypervisor.LostEvents(max(n, 1), hypervisor.Event{Time: e.Time})
	}
	if out.Kind != "" && e.Detail != "" && e.Kind != shimapi.EventLost {
		out.Detail = []hypervisor.Detail{{Key: "message", Value: e.Detail}}
	}
	vm.Tell(out)
}

// ended is the guest's end, which is told once. A shim whose guest has ended is still there,
// and told to go.
func (vm *VM) ended(e *hypervisor.Event) {
	var quit func(context.Context) error
	if !vm.Ordered() {
		quit = func(ctx context.Context) error { return vm.call(ctx, shimapi.MethodQuit, nil, nil) }
	}
	vm.GuestEnded(e, quit)
}

// catchUp deals with what an earlier server has left half done.
func (vm *VM) catchUp() {
	// As long as the handle is there: a shim that hangs answers later.
	s, info, err := vm.status(vm.Life)
	if err != nil {
		return
	}
	rec := vm.record()
	if rec == nil {
		return
	}
	if rec.Report == nil && info.Phase != shimapi.PhaseMaking {
		_ = vm.learn(vm.Life) // without it the VM can do less
	}
	if vm.Held() {
		vm.saver().Recover(func(context.Context) error { return nil })
	}
	if s.state == hypervisor.StateRunning || s.state == hypervisor.StatePaused {
		snapshot.Settle(vm.Log, vm.dir.Swap())
	}
	if s.state == hypervisor.StateShutdown {
		// Its event has been reported by a server that did not live to send it away.
		e := hypervisor.Event{Kind: hypervisor.EventShutdown, Time: time.Now(), State: s.state, Reason: s.reason}
		vm.ended(&e)
		vm.Tell(e)
	}
}

// lost is the end of the process. One that ended without a word is reported.
func (vm *VM) lost() { vm.VMMEnded(vm.proc.Exit()) }
