package ninep

import (
	"net"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// credOf asks the kernel who connected to a Unix socket. The ids are those at
// connect(2), so a process cannot change them afterwards.
func credOf(conn net.Conn) (peerCred, bool) {
	if conn.LocalAddr() == nil || conn.LocalAddr().Network() != "unix" {
		return peerCred{}, false
	}
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return peerCred{}, false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return peerCred{}, false
	}
	var (
		cred   *unix.Ucred
		groups []uint32
		cerr   error
	)
	if err := raw.Control(func(fd uintptr) {
		if cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); cerr == nil {
			groups = peerGroups(fd)
		}
	}); err != nil || cerr != nil {
		return peerCred{}, false
	}
	if !slices.Contains(groups, cred.Gid) {
		groups = append([]uint32{cred.Gid}, groups...)
	}
	return peerCred{uid: cred.Uid, gid: cred.Gid, pid: int(cred.Pid), groups: groups}, true
}

// peerGroups gives the peer's supplementary groups, or none from a kernel that
// does not tell them (before 4.13).
func peerGroups(fd uintptr) []uint32 {
	groups := make([]uint32, 32)
	for {
		size := uint32(len(groups) * 4)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == 0:
			return groups[:size/4]
		case errno == unix.ERANGE && int(size/4) > len(groups):
			groups = make([]uint32, size/4)
		default:
			return nil
		}
	}
}
