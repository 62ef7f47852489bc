package machine

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"vmfs/backends/hypervisor"
)

// The errors that callers tell apart with errors.Is, in addition to those of
// package hypervisor.
var (
	// ErrExists means that there is a VM or a snapshot of that name.
	ErrExists = errors.New("already exists")
	// ErrNotFound means that there is no such VM or snapshot, or not any more.
	ErrNotFound = errors.New("not found")
	// ErrName means that a VM or a snapshot cannot have that name. It is a
	// hypervisor.ErrInvalid too.
	ErrName = errors.New("not a valid name")
	// ErrLocked means that another server uses the state directory.
	ErrLocked = errors.New("in use by another server")
	// ErrClosed means that the Host was closed.
	ErrClosed = errors.New("the server is closing")
)

// LockedError says which server uses the state directory.
type LockedError struct {
	Dir string
	PID int // 0 where it is not known
}

// Error names the process.
func (e *LockedError) Error() string {
	who := "another server"
	if e.PID != 0 {
		who = fmt.Sprintf("the server with pid %d", e.PID)
	}
	return fmt.Sprintf("machine: open %s: in use by %s: end that one first, or use another directory", e.Dir, who)
}

// Unwrap makes the error an ErrLocked.
func (e *LockedError) Unwrap() error { return ErrLocked }

// StateError is a command that the VM's state does not allow. It is a
// hypervisor.ErrBusy.
type StateError struct {
	VM, Verb string
	State    hypervisor.VMState
}

// Error says what to do about it.
func (e *StateError) Error() string {
	return fmt.Sprintf("machine: %s %s: %s is %s", e.Verb, e.VM, e.VM, verbNamed(e.Verb).whyNot(e.State))
}

// Unwrap makes the error a hypervisor.ErrBusy.
func (e *StateError) Unwrap() error { return hypervisor.ErrBusy }

// BusyError is a command that came while another was under way on the VM. It is
// a hypervisor.ErrBusy.
type BusyError struct {
	VM, Verb string
	Busy     string // the verb under way
}

// Error names the command under way and how to end it.
func (e *BusyError) Error() string {
	return fmt.Sprintf("machine: %s %s: %s is busy with %s: wait for it or cancel it", e.Verb, e.VM, e.VM, e.Busy)
}

// Unwrap makes the error a hypervisor.ErrBusy.
func (e *BusyError) Unwrap() error { return hypervisor.ErrBusy }

// nameError says what is wrong with a name.
type nameError struct{ name, why string }

func (e *nameError) Error() string {
	return fmt.Sprintf("%q is not a valid name: %s", e.name, e.why)
}
func (e *nameError) Unwrap() []error { return []error{ErrName, hypervisor.ErrInvalid} }

// takenError is a name that a file of the tree has. It is an ErrExists.
type takenError struct{ name string }

func (e *takenError) Error() string {
	return fmt.Sprintf("%q is one of the server's own files", e.name)
}
func (e *takenError) Unwrap() error { return ErrExists }

// An endedError is why something ended before it was done, in words for people.
type endedError struct {
	why string
	err error
}

func (e *endedError) Error() string { return e.why }
func (e *endedError) Unwrap() error { return e.err }

var (
	errMemoryUnasked = fmt.Errorf("the hypervisor has not answered yet: %w", context.DeadlineExceeded)
	errMemoryUnknown = fmt.Errorf("the hypervisor does not tell the guest's memory: %w", hypervisor.ErrNotSupported)
	errCancelled     = &endedError{"cancelled with the verb cancel", context.Canceled}
	errKilled        = &endedError{"the VM was killed", context.Canceled}
)

// byClient is the end of a request's context.
func byClient(err error) error {
	if errors.Is(err, context.Canceled) {
		return &endedError{"cancelled by the client", err}
	}
	return err
}

// wrap gives err the operation and the VM, unless it is a back end's, which has
// said both itself, or one of this package's that has.
func (v *VM) wrap(verb string, err error) error {
	if err == nil {
		return nil
	}
	var (
		state *StateError
		busy  *BusyError
	)
	if errors.As(err, &state) || errors.As(err, &busy) {
		return err
	}
	// What the text starts with decides nothing but how often it says so.
	for _, who := range append(hypervisor.Types(), "machine") {
		if strings.HasPrefix(err.Error(), string(who)+": ") {
			return err
		}
	}
	return fmt.Errorf("machine: %s %s: %w", verb, v.name, err)
}
