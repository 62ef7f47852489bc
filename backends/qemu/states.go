package qemu

import (
	"context"

	"vmfs/backends/handle"
	"vmfs/backends/hypervisor"
)

// The reasons of VMInfo and of events beside those of package handle, and QEMU's own words for
// why a guest has ended ("guest-shutdown", "guest-panic", "host-qmp-quit",
// "host-signal" and so on).
const (
	reasonRestoring     = "restoring"      // a snapshot is being read
	reasonIOError       = "io-error"       // a write to a disk failed
	reasonInternalError = "internal-error" // QEMU or KVM cannot go on; needs a reset
	reasonWatchdog      = "watchdog"       // a watchdog fired and was to pause
	reasonSuspended     = "suspended"      // the guest sleeps; Resume wakes it
	reasonColo          = "colo"           // between the checkpoints of COLO
)

// A runState is what one of QEMU's run states means.
type runState struct {
	state  hypervisor.VMState
	reason string
}

// runStates has every run state of QEMU's RunState (qapi/run-state.json).
var runStates = map[string]runState{
	"running":        {hypervisor.StateRunning, ""},
	"paused":         {hypervisor.StatePaused, ""},
	"postmigrate":    {hypervisor.StatePaused, ""}, // paused, and a snapshot was taken
	"prelaunch":      {hypervisor.StateCreated, handle.ReasonPrelaunch},
	"preconfig":      {hypervisor.StateCreated, handle.ReasonPrelaunch},
	"inmigrate":      {hypervisor.StateCreated, reasonRestoring},
	"restore-vm":     {hypervisor.StatePaused, reasonRestoring},
	"save-vm":        {hypervisor.StatePaused, handle.ReasonSnapshot},
	"finish-migrate": {hypervisor.StatePaused, handle.ReasonSnapshot},
	"suspended":      {hypervisor.StatePaused, reasonSuspended},
	"guest-panicked": {hypervisor.StatePaused, handle.ReasonPanicked},
	"io-error":       {hypervisor.StatePaused, reasonIOError},
	"internal-error": {hypervisor.StatePaused, reasonInternalError},
	"watchdog":       {hypervisor.StatePaused, reasonWatchdog},
	"debug":          {hypervisor.StatePaused, handle.ReasonDebug},
	"colo":           {hypervisor.StatePaused, reasonColo},
	"shutdown":       {hypervisor.StateShutdown, handle.ReasonGuestShutdown},
}

// status asks QEMU for its run state.
func (vm *VM) status(ctx context.Context) (string, error) {
	var s struct {
		Status string `json:"status"`
	}
	err := vm.conn.Execute(ctx, "query-status", nil, &s)
	return s.Status, err
}

// meaning is what a run state means for this VM. A state that a later QEMU may
// have is one in which the guest does not run.
func (vm *VM) meaning(status string) runState {
	s, ok := runStates[status]
	if !ok {
		s = runState{hypervisor.StatePaused, status}
	}
	if status == "prelaunch" && vm.Ran() {
		s = runState{state: hypervisor.StatePaused} // reset while it was paused
	}
	s.reason = vm.Reason(s.state, s.reason)
	return s
}
