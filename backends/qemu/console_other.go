//go:build !linux

package qemu

import (
	"errors"
	"net"
)

// unread is not known here.
func unread(net.Conn) (int, error) { return 0, errors.ErrUnsupported }
