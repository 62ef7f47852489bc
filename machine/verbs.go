package machine

import (
	"slices"

	"vmfs/backends/hypervisor"
)

var (
	inAny     = []hypervisor.VMState{hypervisor.StateCreated, hypervisor.StateRunning, hypervisor.StatePaused, hypervisor.StateShutdown}
	inNone    = []hypervisor.VMState{hypervisor.StateCreated, hypervisor.StateShutdown}
	inLive    = []hypervisor.VMState{hypervisor.StateRunning, hypervisor.StatePaused}
	inRunning = []hypervisor.VMState{hypervisor.StateRunning}
	inPaused  = []hypervisor.VMState{hypervisor.StatePaused}
)

// validIn is the states in which a verb can be done.
var validIn = map[string][]hypervisor.VMState{
	"start":           inNone,
	"restore":         inNone,
	"delete":          inNone,
	"pause":           inRunning,
	"resume":          inPaused,
	"poweroff":        inLive,
	"stop":            inLive,
	"kill":            inLive,
	"reset":           inLive,
	"snapshot":        inLive,
	"memory":          inAny,
	"set":             inAny,
	"delete-snapshot": inAny,
	"wait":            inAny,
	"cancel":          inAny,
}

// ValidIn returns the states of a VM in which the verb can be done, nil for a
// verb that there is not. Kill is also taken while a start or any other command
// is under way, in every state, and ends that too.
func ValidIn(verb string) []hypervisor.VMState { return slices.Clone(validIn[verb]) }
