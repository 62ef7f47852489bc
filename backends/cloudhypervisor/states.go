package cloudhypervisor

import (
	"context"
	"errors"

	"vmfs/backends/cloudhypervisor/api"
	"vmfs/backends/hypervisor"
)

// The reasons of VMInfo and of events.
const (
	reasonPrelaunch     = "prelaunch"      // started, and the guest not yet let run
	reasonSnapshot      = "snapshot"       // paused while a snapshot is written
	reasonPanicked      = "guest-panicked" // the guest said that it crashed
	reasonDebug         = "debug"          // a debugger stopped it
	reasonGuestShutdown = "guest-shutdown" // the guest powered off
	reasonVMMShutdown   = "vmm-shutdown"   // the VMM was told to end
)

// A vmState is what a state of Cloud Hypervisor's means.
type vmState struct {
	state  hypervisor.VMState
	reason string
}

// states has every state of Cloud Hypervisor's. A VM of its that is Created has no guest: it
// never had one, or that has ended (see meaning).
var states = map[api.State]vmState{
	api.StateCreated:    {hypervisor.StateCreated, reasonPrelaunch},
	api.StateRunning:    {hypervisor.StateRunning, ""},
	api.StatePaused:     {hypervisor.StatePaused, ""},
	api.StateBreakPoint: {hypervisor.StatePaused, reasonDebug},
	api.StateShutdown:   {hypervisor.StateShutdown, reasonGuestShutdown},
}

// meaning is what a state means for this VM. A state that a later Cloud Hypervisor may have is
// one in which the guest does not run.
func (vm *VM) meaning(state api.State) vmState {
	s, ok := states[state]
	if !ok {
		s = vmState{hypervisor.StatePaused, string(state)}
	}
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if s.state == hypervisor.StateCreated && vm.ran {
		s = states[api.StateShutdown]
	}
	switch {
	case s.state == hypervisor.StateShutdown && vm.endReason != "":
		s.reason = vm.endReason
	case s.state == hypervisor.StatePaused && vm.held:
		s.reason = reasonSnapshot
	case s.state == hypervisor.StatePaused && vm.panicked:
		s.reason = reasonPanicked
	}
	return s
}

// status asks for the state and what goes with it. A VMM without a VM has one that is Created.
func (vm *VM) status(ctx context.Context) (vmState, *api.Info, error) {
	info, err := vm.client.Info(ctx)
	if errors.Is(err, api.ErrNoVM) {
		info, err = &api.Info{State: api.StateCreated}, nil
	}
	if err != nil {
		return vmState{}, nil, err
	}
	return vm.meaning(info.State), info, nil
}
