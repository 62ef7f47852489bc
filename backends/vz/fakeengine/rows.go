package fakeengine

import "vmfs/backends/vz/shim"

// A Call is what is asked of the engine, or what happens to a VM by itself.
type Call string

// The calls.
const (
	CallHost    Call = "host"
	CallCheck   Call = "check"
	CallNew     Call = "new"
	CallCan     Call = "can"
	CallStart   Call = "start"
	CallPause   Call = "pause"
	CallResume  Call = "resume"
	CallStop    Call = "stop"
	CallRequest Call = "request-stop"
	CallSave    Call = "save"
	CallRestore Call = "restore"
	CallMemory  Call = "memory"
	CallConnect Call = "connect"
	CallListen  Call = "listen"

	// GuestStops is a guest that powers off.
	GuestStops Call = "guest-stops"
	// GuestFails is the framework that stops a VM because of an error of its own.
	GuestFails Call = "guest-fails"
)

// A Row is one of the framework's documented transitions.
type Row struct {
	Call Call
	// From are the states in which the call is possible; in any other it is an error, and
	// nothing changes.
	From []shim.State
	// Via is the state on the way, "" for none.
	Via shim.State
	// To is the state when it is done, "" for the one it was in, and Fails when it fails.
	To, Fails shim.State
	// Gate is the action that the framework can be asked about, "" for none.
	Gate shim.Action
	// Page is where that is documented. The page of the states themselves is StatesPage.
	Page string
}

const apple = "https://developer.apple.com/documentation/virtualization/vzvirtualmachine"

// StatesPage is the page of the states, each of which says from which others it is reached.
// The same sentences are in the documentation of vz's VirtualMachineState, at
// https://pkg.go.dev/github.com/Code-Hex/vz/v3@v3.7.1#VirtualMachineState.
const StatesPage = apple + "/state-swift.enum"

// Rows has every transition that the framework documents.
var Rows = []Row{
	{
		// "Starts a virtual machine that's in either VZVirtualMachineStateStopped or
		// VZVirtualMachineStateError."
		Call: CallStart, From: []shim.State{shim.StateStopped, shim.StateError}, Via: shim.StateStarting, To: shim.StateRunning,
		Fails: shim.StateStopped, Gate: shim.ActionStart, Page: apple + "/start(completionhandler:)",
	},
	{
		// "Pauses a virtual machine that's in VZVirtualMachineStateRunning."
		Call: CallPause, From: []shim.State{shim.StateRunning}, Via: shim.StatePausing, To: shim.StatePaused,
		Fails: shim.StateRunning, Gate: shim.ActionPause, Page: apple + "/pause(completionhandler:)",
	},
	{
		// "Resumes a virtual machine that's in the VZVirtualMachineStatePaused state."
		Call: CallResume, From: []shim.State{shim.StatePaused}, Via: shim.StateResuming, To: shim.StateRunning,
		Fails: shim.StatePaused, Gate: shim.ActionResume, Page: apple + "/resume(completionhandler:)",
	},
	{
		// "Stops a VM that's in either a running or paused state." Since macOS 12.
		Call: CallStop, From: []shim.State{shim.StateRunning, shim.StatePaused}, Via: shim.StateStopping, To: shim.StateStopped,
		Fails: shim.StateRunning, Gate: shim.ActionStop, Page: apple + "/stop(completionhandler:)",
	},
	{
		// "Requests that the guest turns itself off." The guest ends by itself, later.
		Call: CallRequest, From: []shim.State{shim.StateRunning},
		Gate: shim.ActionRequestStop, Page: apple + "/requeststop()",
	},
	{
		// "Saves the state of a VM." It "must be in a paused state". Since macOS 14, on Apple
		// silicon.
		Call: CallSave, From: []shim.State{shim.StatePaused}, Via: shim.StateSaving, To: shim.StatePaused,
		Fails: shim.StatePaused, Page: apple + "/savemachinestateto(url:completionhandler:)",
	},
	{
		// "Restores a VM from a previously saved state." It "must be in a stopped state"; the
		// saved file "is invalid if the configuration differs".
		Call: CallRestore, From: []shim.State{shim.StateStopped}, Via: shim.StateRestoring, To: shim.StatePaused,
		Fails: shim.StateStopped, Page: apple + "/restoremachinestatefrom(url:completionhandler:)",
	},
	{
		// "Tells the delegate that the guest stopped the VM."
		Call: GuestStops, From: []shim.State{shim.StateRunning}, To: shim.StateStopped,
		Page: apple + "delegate/guestdidstop(_:)",
	},
	{
		// "Tells the delegate that the VM stopped because of an error."
		Call: GuestFails, From: []shim.State{shim.StateRunning, shim.StatePaused}, To: shim.StateError,
		Page: apple + "delegate/virtualmachine(_:didstopwitherror:)",
	},
}

// States are all states.
var States = []shim.State{
	shim.StateStopped, shim.StateRunning, shim.StatePaused, shim.StateError, shim.StateStarting, shim.StatePausing,
	shim.StateResuming, shim.StateStopping, shim.StateSaving, shim.StateRestoring,
}

func rowOf(c Call) Row {
	for _, r := range Rows {
		if r.Call == c {
			return r
		}
	}
	return Row{}
}
