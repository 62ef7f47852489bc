package qemu

import (
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// unread returns how much of what was written to conn, a Unix socket, its other
// end has not read.
func unread(conn net.Conn) (n int, err error) {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return 0, fmt.Errorf("%T is no socket", conn)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return 0, err
	}
	cerr := raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
	if cerr != nil {
		return 0, cerr
	}
	return n, err
}
