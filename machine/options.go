package machine

import (
	"log/slog"
	"time"

	"vmfs/backends/hypervisor"
)

// Options is how a Host is opened. Only StateDir is needed.
type Options struct {
	// StateDir is where the VMs live. It is made if it is not there. Its path
	// should be short: a Unix socket's cannot be longer than 107 bytes (Linux).
	StateDir string
	// Paths is where the back ends find their programs; nil looks in PATH.
	Paths *hypervisor.Paths
	// Reserved are names that no VM can have: the served tree has files of these names.
	Reserved []string
	// Log gets what an operator should know; nil discards it.
	Log *slog.Logger
	// Timeouts bounds what is asked of hypervisors.
	Timeouts Timeouts
	// DefaultBackend is the back end of a new VM; "" is what package config says.
	DefaultBackend hypervisor.Type

	// testHook, in tests, is called at each step of a start.
	testHook func(vm, step string)
}

// Timeouts bounds how long a command may take, on top of the context that it is
// called with. A zero field has the default.
type Timeouts struct {
	Verb     time.Duration // one question or order to a VMM: 10 s
	Start    time.Duration // start: 60 s
	Stop     time.Duration // how long stop waits before it forces the VMM to end: 10 s
	Snapshot time.Duration // snapshot and restore: 1 h
	Adopt    time.Duration // how long Open waits for VMMs that do not answer: 2 s
}

func (t Timeouts) withDefaults() Timeouts {
	set := func(d *time.Duration, to time.Duration) {
		if *d <= 0 {
			*d = to
		}
	}
	set(&t.Verb, 10*time.Second)
	set(&t.Start, time.Minute)
	set(&t.Stop, 10*time.Second)
	set(&t.Snapshot, time.Hour)
	set(&t.Adopt, 2*time.Second)
	return t
}
