package chtest

import "time"

// A Config is what a VMM is like. It is JSON where the VMM is a process.
type Config struct {
	// Version is what it says it is; "" is "v53.0".
	Version string `json:"version,omitempty"`
	// Faults are what goes wrong, the first that fits a call.
	Faults []Fault `json:"faults,omitempty"`
	// LostEvents and CutEvents name events as "vm paused": those are not written, and these
	// only in part.
	LostEvents []string `json:"lost_events,omitempty"`
	CutEvents  []string `json:"cut_events,omitempty"`
	// IgnoresPowerButton is of the guest.
	IgnoresPowerButton bool `json:"ignores_power_button,omitempty"`
}

// A Fault is what goes wrong with a call.
type Fault struct {
	Call string `json:"call"`          // as "vm.boot"
	Nth  int    `json:"nth,omitempty"` // of the calls of that name, from 1; 0 is every one
	// Delay comes before all else. The API's one loop waits with it: no other call is
	// answered meanwhile.
	Delay time.Duration `json:"delay,omitempty"`
	Kind  FaultKind     `json:"kind,omitempty"`
	// Status and Body are the answer of Refused and of Failed, as it is.
	Status int    `json:"status,omitempty"`
	Body   string `json:"body,omitempty"`
}

// A FaultKind is what becomes of the call.
type FaultKind string

// The kinds.
const (
	// Slow is a call that is carried out, after its delay.
	Slow FaultKind = ""
	// Hangs is a call that is never carried out or answered, and no other after it.
	Hangs FaultKind = "hangs"
	// DiesBefore and DiesAfter end the VMM as SIGKILL does, with the call not carried out,
	// or carried out and not answered.
	DiesBefore FaultKind = "dies-before"
	DiesAfter  FaultKind = "dies-after"
	// Refused is a call that is not carried out, Failed one that is and says otherwise.
	Refused FaultKind = "refused"
	Failed  FaultKind = "failed"
	// LosesSocket removes the API's socket. The call is carried out.
	LosesSocket FaultKind = "loses-socket"
)
