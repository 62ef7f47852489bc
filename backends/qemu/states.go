package qemu

import (
	"context"

	"vmfs/backends/hypervisor"
)

// The reasons of VMInfo and of events that are not simply QEMU's own words for
// why a guest has ended ("guest-shutdown", "guest-panic", "host-qmp-quit",
// "host-signal" and so on).
const (
	reasonPrelaunch     = "prelaunch"      // started, and the guest not yet let run
	reasonRestoring     = "restoring"      // a snapshot is being read
	reasonSnapshot      = "snapshot"       // paused while a snapshot is written
	reasonPanicked      = "guest-panicked" // the guest said that it crashed
	reasonIOError       = "io-error"       // a write to a disk failed
	reasonInternalError = "internal-error" // QEMU or KVM cannot go on; needs a reset
	reasonWatchdog      = "watchdog"       // a watchdog fired and was to pause
	reasonSuspended     = "suspended"      // the guest sleeps; Resume wakes it
	reasonDebug         = "debug"          // a debugger stopped it
	reasonColo          = "colo"           // between the checkpoints of COLO
	reasonGuestShutdown = "guest-shutdown" // the guest powered off
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
	"prelaunch":      {hypervisor.StateCreated, reasonPrelaunch},
	"preconfig":      {hypervisor.StateCreated, reasonPrelaunch},
	"inmigrate":      {hypervisor.StateCreated, reasonRestoring},
	"restore-vm":     {hypervisor.StatePaused, reasonRestoring},
	"save-vm":        {hypervisor.StatePaused, reasonSnapshot},
	"finish-migrate": {hypervisor.StatePaused, reasonSnapshot},
	"suspended":      {hypervisor.StatePaused, reasonSuspended},
	"guest-panicked": {hypervisor.StatePaused, reasonPanicked},
	"io-error":       {hypervisor.StatePaused, reasonIOError},
	"internal-error": {hypervisor.StatePaused, reasonInternalError},
	"watchdog":       {hypervisor.StatePaused, reasonWatchdog},
	"debug":          {hypervisor.StatePaused, reasonDebug},
	"colo":           {hypervisor.StatePaused, reasonColo},
	"shutdown":       {hypervisor.StateShutdown, reasonGuestShutdown},
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
	vm.mu.Lock()
	defer vm.mu.Unlock()
	switch {
	case status == "prelaunch" && vm.ran:
		s = runState{state: hypervisor.StatePaused} // reset while it was paused
	case s.state == hypervisor.StateShutdown && vm.endReason != "":
		s.reason = vm.endReason
	case s.state == hypervisor.StatePaused && vm.held:
		s.reason = reasonSnapshot
	}
	return s
}
