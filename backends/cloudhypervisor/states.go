package cloudhypervisor

import (
	"context"
	"errors"

	"vmfs/backends/cloudhypervisor/api"
	"vmfs/backends/handle"
	"vmfs/backends/hypervisor"
)

// reasonVMMShutdown is a reason of VMInfo and of events beside those of package handle: the VMM
// was told to end.
const reasonVMMShutdown = "vmm-shutdown"

// A vmState is what a state of Cloud Hypervisor's means.
type vmState struct {
	state  hypervisor.VMState
	reason string
}

// states has every state of Cloud Hypervisor's. A VM of its that is Created has no guest: it
// never had one, or that has ended (see meaning).
var states = map[api.State]vmState{
	api.StateCreated:    {hypervisor.StateCreated, handle.ReasonPrelaunch},
	api.StateRunning:    {hypervisor.StateRunning, ""},
	api.StatePaused:     {hypervisor.StatePaused, ""},
	api.StateBreakPoint: {hypervisor.StatePaused, handle.ReasonDebug},
	api.StateShutdown:   {hypervisor.StateShutdown, handle.ReasonGuestShutdown},
}

// meaning is what a state means for this VM. A state that a later Cloud Hypervisor may have is
// one in which the guest does not run.
func (vm *VM) meaning(state api.State) vmState {
	s, ok := states[state]
	if !ok {
		s = vmState{hypervisor.StatePaused, string(state)}
	}
	if s.state == hypervisor.StateCreated && vm.Ran() {
		s = states[api.StateShutdown]
	}
	vm.mu.Lock()
	if s.state == hypervisor.StatePaused && vm.panicked {
		s.reason = handle.ReasonPanicked
	}
	vm.mu.Unlock()
	s.reason = vm.Reason(s.state, s.reason)
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
