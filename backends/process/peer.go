package process

import (
	"net"

	"vmfs/internal/unixsock"
)

// Peer returns the process at the other end of a Unix socket, as the kernel knows it:
// the one that connected, or that last called listen(2). What the process says of its
// own pid is not believed anywhere: in a pid namespace of its own that is another one.
func Peer(c net.Conn) (Process, error) {
	p, err := unixsock.PeerOf(c)
	if err != nil {
		return Process{}, err
	}
	return Find(p.PID)
}
