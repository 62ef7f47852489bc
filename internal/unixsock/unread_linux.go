package unixsock

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// Unread returns how much of what was written to a connection its other end has not
// read yet. Where the system does not tell it is an error.
func Unread(c syscall.Conn) (n int, err error) {
	rc, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	if cerr := rc.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }); cerr != nil {
		return 0, cerr
	}
	return n, err
}
