package fs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/hugelgupf/p9/linux"

	"vmfs/backends/hypervisor"
	"vmfs/machine"
	"vmfs/streams"
	"vmfs/vsock"
)

// errAccess is what a user may not do.
var errAccess = errors.New("permission denied")

// errnos is the one place where errors become errnos; the first row that an
// error is decides, and what is none of them is EIO.
var errnos = []struct {
	err   error
	errno linux.Errno
}{
	{context.Canceled, linux.EINTR},
	{context.DeadlineExceeded, linux.ETIMEDOUT},
	{hypervisor.ErrNotSupported, linux.EOPNOTSUPP},
	{hypervisor.ErrHypervisorNotRunning, linux.ENXIO},
	{machine.ErrNotFound, linux.ENOENT},
	{machine.ErrExists, linux.EEXIST},
	{machine.ErrName, linux.EINVAL},
	{hypervisor.ErrBusy, linux.EBUSY},
	{hypervisor.ErrInvalid, linux.EINVAL},
	{errAccess, linux.EACCES},
	{vsock.ErrRefused, linux.ECONNREFUSED},
	{syscall.ECONNREFUSED, linux.ECONNREFUSED},
	{vsock.ErrUnavailable, linux.EHOSTUNREACH},
	{vsock.ErrPort, linux.EINVAL},
	{streams.ErrNotConnected, linux.ENOTCONN},
	{syscall.ECONNRESET, linux.ECONNRESET},
	{syscall.EPIPE, linux.EPIPE},
	{syscall.EADDRINUSE, linux.EADDRINUSE},
	{syscall.ENOSPC, linux.ENOSPC},
	{syscall.EDQUOT, linux.EDQUOT},
	{os.ErrDeadlineExceeded, linux.ETIMEDOUT},
}

// Error is an error with the errno that a client of 9P2000.L sees in its place.
type Error struct {
	Errno linux.Errno
	Err   error
}

func (e *Error) Error() string   { return e.Err.Error() }
func (e *Error) Unwrap() []error { return []error{e.Errno, e.Err} }

// fail gives err its errno. A nil err stays nil, and an error that has an
// errno keeps it.
func fail(err error) error {
	if err == nil {
		return nil
	}
	var has *Error
	var errno linux.Errno
	if errors.As(err, &has) || errors.As(err, &errno) {
		return err
	}
	for _, row := range errnos {
		if errors.Is(err, row.err) {
			return &Error{row.errno, err}
		}
	}
	return &Error{linux.EIO, err}
}

// failf is an error of the tree's own.
func failf(errno linux.Errno, format string, args ...any) error {
	return &Error{errno, fmt.Errorf(format, args...)}
}
