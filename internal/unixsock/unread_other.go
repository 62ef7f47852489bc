//go:build unix && !linux

package unixsock

import (
	"errors"
	"syscall"
)

// Unread is not known here. A Mac puts what is written straight into the other end's queue,
// and tells of one's own alone (SO_NWRITE).
func Unread(syscall.Conn) (int, error) { return 0, errors.ErrUnsupported }
