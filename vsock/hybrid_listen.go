package vsock

import (
	"context"
	"fmt"
	"net"
	"strconv"

	"vmfs/internal/unixsock"
)

// ListenVsock waits for the guest's connections to the host's port, at the
// Unix socket Socket_PORT (mode 0600, removed on Close). A socket left behind
// by a dead process is replaced; a living one's is an error. ctx bounds the
// call, not the listener.
//
// Any process that may open the socket can connect to it: it stands for the
// guest only as far as the directory's permissions say so.
func (h *Hybrid) ListenVsock(ctx context.Context, port int) (net.Listener, error) {
	if err := CheckPort(port); err != nil {
		return nil, fmt.Errorf("vsock: listen for the guest of %s: %w", h.Socket, err)
	}
	l, err := unixsock.Listen(ctx, ListenPath(h.Socket, port))
	if err != nil {
		return nil, fmt.Errorf("vsock: listen for the guest of %s on port %d: %w", h.Socket, port, err)
	}
	return &hybridListener{Listener: l, addr: Addr{Socket: h.Socket, Port: port}}, nil
}

// ListenPath is the Unix socket at which a guest's connections to port arrive
// when socket is the one of its hybrid vsock.
func ListenPath(socket string, port int) string {
	return socket + "_" + strconv.Itoa(port)
}

type hybridListener struct {
	*unixsock.Listener
	addr Addr
}

var _ net.Listener = (*hybridListener)(nil)

func (l *hybridListener) Addr() net.Addr { return l.addr }

func (l *hybridListener) Accept() (net.Conn, error) {
	c, err := l.AcceptUnix()
	if err != nil {
		return nil, fmt.Errorf("vsock: accept on %s: %w", l.Path(), err)
	}
	// The guest's own port is not told on this way.
	return &hybridConn{UnixConn: c, local: l.addr, remote: Addr{Socket: l.addr.Socket}}, nil
}
