//go:build unix && !linux

package unixsock

import (
	"errors"
	"syscall"
)

// Unread is not known here.
func Unread(syscall.Conn) (int, error) { return 0, errors.ErrUnsupported }
