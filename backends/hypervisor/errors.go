package hypervisor

import (
	"context"
	"errors"
	"fmt"
)

// The errors that callers tell apart with errors.Is. A back end wraps them with
// the operation and the VM: "qemu: pause web: hypervisor is not running".
var (
	// ErrHypervisorNotRunning means that there is no VMM for the VM, or that it
	// ended while it was being asked.
	ErrHypervisorNotRunning = errors.New("hypervisor is not running")
	// ErrNotSupported means that the back end cannot do it for this VM, ever.
	ErrNotSupported = errors.New("operation not supported by this hypervisor")
	// ErrInvalid means that an argument or a setting is out of its range.
	ErrInvalid = errors.New("invalid argument")
	// ErrBusy means that it cannot be done in the state the VM is in, or while
	// another operation is under way.
	ErrBusy = errors.New("busy")
	// ErrCIDInUse means that the host's kernel has another guest with the vsock
	// context ID that this one was to have. It is an ErrBusy.
	ErrCIDInUse = fmt.Errorf("another guest of this host has this vsock CID: %w", ErrBusy)
)

// ResizeError is a memory resize whose guest did not reach the target in time.
type ResizeError struct {
	Target int64 // bytes asked for, rounded to the back end's step
	Actual int64 // bytes the guest has
}

// Error says both sizes in bytes.
func (e *ResizeError) Error() string {
	return fmt.Sprintf("guest memory is %d bytes, not yet the target of %d: the guest may be slow, busy or without a driver for it", e.Actual, e.Target)
}

// Unwrap makes the error a context.DeadlineExceeded.
func (e *ResizeError) Unwrap() error { return context.DeadlineExceeded }
