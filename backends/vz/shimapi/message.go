package shimapi

import (
	"encoding/json"
	"time"

	"vmfs/backends/vz/shimconfig"
)

// The versions of the protocol that this release speaks.
const (
	MinVersion = 1
	Version    = 1
)

// MaxLine bounds a message in bytes, the end of its line included.
const MaxLine = 64 << 10

// A Method is what a request asks for.
type Method string

// The methods.
const (
	MethodHello    Method = "hello"    // Hello to Welcome
	MethodReport   Method = "report"   // to shimconfig.Report, once the VM is made
	MethodInfo     Method = "info"     // to Info, at once
	MethodStart    Method = "start"    // boots a VM that was not started yet
	MethodRestore  Method = "restore"  // File: the same from a saved state; it is paused
	MethodPause    Method = "pause"    // stops the virtual CPUs; of a paused VM it is nothing
	MethodResume   Method = "resume"   // lets them go on; of a running VM it is nothing
	MethodPowerOff Method = "poweroff" // presses the guest's power button
	MethodStop     Method = "stop"     // ends the VM and then the shim; answered before
	MethodKill     Method = "kill"     // ends the shim at once; not answered
	MethodQuit     Method = "quit"     // ends a shim whose guest has ended; answered before
	MethodSave     Method = "snapshot" // File: writes the state of a paused VM
	MethodMemory   Method = "balloon"  // Memory: sets the balloon's target
	MethodEvents   Method = "events"   // After: sends events from then on, once a connection
	MethodCancel   Method = "cancel"   // Cancel: gives up waiting for a request
)

// A Request is one line of a client.
type Request struct {
	ID     uint64          `json:"id"`
	Method Method          `json:"method"`
	Params json.RawMessage `json:"params,omitempty"`
}

// A Message is one line of the shim: an answer, with a result or an error, or an event.
type Message struct {
	ID     uint64          `json:"id,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
	Error  *Error          `json:"error,omitempty"`
	Event  *Event          `json:"event,omitempty"`
}

// A Code says what kind of failure an error is.
type Code string

// The codes.
const (
	CodeProtocol    Code = "protocol"    // not of this protocol; the shim hangs up
	CodeVersion     Code = "version"     // no version in common; the shim hangs up
	CodeUnknown     Code = "unknown"     // no such method, or no such parameter
	CodeInvalid     Code = "invalid"     // a parameter is out of its range
	CodeBusy        Code = "busy"        // not in this state, or not now
	CodeUnsupported Code = "unsupported" // this host, or this VM, cannot
	CodeCancelled   Code = "cancelled"   // by a cancel
	CodeEnding      Code = "ending"      // the shim is on its way out
	CodeFailed      Code = "failed"      // the framework says no; the text is its own
)

// An Error is why a request failed.
type Error struct {
	Code Code   `json:"code"`
	Text string `json:"text"`
}

// Error is the text.
func (e *Error) Error() string { return e.Text }

// Hello is what a client says first.
type Hello struct {
	Min int `json:"min"`
	Max int `json:"max"`
}

// Welcome is the answer: whose shim it is.
type Welcome struct {
	Version int    `json:"version"`
	Name    string `json:"name"`
	UUID    string `json:"uuid"`
	PID     int    `json:"pid"`
}

// A Phase is what the shim's VM is doing.
type Phase string

// The phases.
const (
	PhaseMaking  Phase = "making"  // the framework is being asked to make it
	PhaseCreated Phase = "created" // not started
	PhaseRunning Phase = "running"
	PhasePaused  Phase = "paused"
	PhaseEnded   Phase = "ended" // the guest has ended; Reason says how
)

// The reasons of Info and of events.
const (
	ReasonGuest    = "guest-shutdown" // the guest has powered off
	ReasonHost     = "host-quit"      // the shim was told to stop
	ReasonInternal = "internal-error" // the framework has stopped the VM, and says why
)

// Info is how the VM is.
type Info struct {
	Phase  Phase  `json:"phase"`
	Reason string `json:"reason,omitempty"`
	// State is the framework's own word.
	State string `json:"state"`
	// Doing is what the framework has been asked to do and has not done yet.
	Doing string `json:"doing,omitempty"`
	// Target is what the balloon was told last, in bytes.
	Target int64 `json:"target"`
	// Memory is what the VM was booted with.
	Memory int64 `json:"memory"`
	// Seq is the number of the last event.
	Seq uint64 `json:"seq"`
	// Problem is what the shim has to say of something that does not work, "" for nothing.
	Problem string `json:"problem,omitempty"`
}

// File is a file of the machine's state.
type File struct {
	Path string `json:"path"`
}

// Memory is a size.
type Memory struct {
	Bytes int64 `json:"bytes"`
}

// After is where the events are to begin: behind the number Seq.
type After struct {
	Seq uint64 `json:"seq"`
}

// Cancel names a request of this connection.
type Cancel struct {
	ID uint64 `json:"id"`
}

// An EventKind says what happened.
type EventKind string

// The kinds of events.
const (
	EventRunning  EventKind = "running"
	EventPaused   EventKind = "paused"
	EventEnded    EventKind = "ended"
	EventPowerOff EventKind = "poweroff" // the power button was pressed
	EventNetwork  EventKind = "network"  // a network has lost what was behind it
	EventWake     EventKind = "wake"     // the host has slept, and is awake again
	EventLost     EventKind = "lost"     // events before this number are forgotten
)

// An Event is one thing that happened. Its numbers begin with 1 and have no gaps, but
// behind an EventLost.
type Event struct {
	Seq    uint64    `json:"seq"`
	Time   time.Time `json:"time"`
	Kind   EventKind `json:"kind"`
	Reason string    `json:"reason,omitempty"`
	// Detail is what else there is to say: the framework's words, a network's MAC, the
	// number of events lost, how long the host slept.
	Detail string `json:"detail,omitempty"`
}

// Strict reads the parameters of a request.
func Strict(b json.RawMessage, v any) error {
	if len(b) == 0 {
		b = json.RawMessage("{}")
	}
	return shimconfig.Strict(b, v)
}
