//go:build unix

package unixsock

import (
	"errors"
	"net"
	"syscall"
)

// A Peer is the process at the other end of a connection, as the kernel knows it and
// not as it says itself: the one that connected, with its ids of that moment, or the
// one that last called listen(2), if we connected. Its pid may be another's by now.
type Peer struct {
	PID      int // 0 where it is not known
	UID, GID uint32
	// Groups are its supplementary groups and GID, as far as the system tells them.
	Groups []uint32
}

// PeerOf asks the kernel who is at the other end of a connection. It returns an error
// for one that is no Unix socket.
func PeerOf(c net.Conn) (p Peer, err error) {
	sc, ok := c.(syscall.Conn)
	if a := c.LocalAddr(); !ok || a == nil || a.Network() != "unix" {
		return Peer{}, errors.New("not a Unix socket")
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return Peer{}, err
	}
	if cerr := rc.Control(func(fd uintptr) { p, err = peerOf(int(fd)) }); cerr != nil {
		return Peer{}, cerr
	}
	return p, err
}
