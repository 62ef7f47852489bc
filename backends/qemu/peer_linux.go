package qemu

import (
	"net"

	"golang.org/x/sys/unix"
)

// peerPID returns the process at the other end of a Unix socket: the one that
// last called listen(2) on it. QEMU does so on the socket that it inherits.
func peerPID(c net.Conn) int {
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return 0
	}
	rc, err := uc.SyscallConn()
	if err != nil {
		return 0
	}
	pid := 0
	_ = rc.Control(func(fd uintptr) { // fails for a closed connection: 0
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	return pid
}
