package dial

import (
	"context"
	"fmt"
	"net"

	"github.com/mdlayher/vsock"

	"vmfs/internal/unixsock"
)

// ErrInUse is the error of listening on a Unix socket that another process has.
var ErrInUse = unixsock.ErrInUse

// Listen listens on a dial string: unix!/path, tcp!host!port, vsock!cid!port.
//
// A Unix socket comes into being with mode 0600. One that is left over from a
// server that is gone is replaced; one that a process has is ErrInUse. Closing the
// listener removes the socket if it is still the one that Listen made.
func Listen(ctx context.Context, addr string) (net.Listener, error) {
	a, err := Parse(addr)
	if err != nil {
		return nil, err
	}
	var ln net.Listener
	switch a.Net {
	case "unix":
		return listenUnix(ctx, a.Host)
	case "tcp":
		var hp string
		if hp, err = a.hostPort(ctx); err == nil {
			ln, err = new(net.ListenConfig).Listen(ctx, "tcp", hp)
		}
	case "vsock":
		var cid, port uint32
		if cid, port, err = a.vsock(); err == nil {
			ln, err = listenVsock(cid, port)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", a, err)
	}
	return ln, nil
}

// listenUnix keeps a nil *unixsock.Listener from becoming a net.Listener.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	ln, err := unixsock.Listen(ctx, path)
	if err != nil {
		return nil, err
	}
	return ln, nil
}

// listenVsock keeps a nil *vsock.Listener from becoming a net.Listener.
func listenVsock(cid, port uint32) (net.Listener, error) {
	ln, err := vsock.ListenContextID(cid, port, nil)
	if err != nil {
		return nil, err
	}
	return ln, nil
}

// Dial connects to a dial string: unix!/path, tcp!host!port, vsock!cid!port.
func Dial(ctx context.Context, addr string) (net.Conn, error) {
	a, err := Parse(addr)
	if err != nil {
		return nil, err
	}
	var (
		d    net.Dialer
		conn net.Conn
	)
	switch a.Net {
	case "unix":
		conn, err = dialUnix(ctx, a.Host)
	case "tcp":
		if a.Host == "*" {
			a.Host = "localhost"
		}
		var hp string
		if hp, err = a.hostPort(ctx); err == nil {
			conn, err = d.DialContext(ctx, "tcp", hp)
		}
	case "vsock":
		var cid, port uint32
		if cid, port, err = a.vsock(); err == nil {
			conn, err = dialVsock(ctx, cid, port)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", a, err)
	}
	return conn, nil
}

func dialUnix(ctx context.Context, path string) (net.Conn, error) {
	conn, err := unixsock.Dial(ctx, path)
	if err != nil {
		return nil, err
	}
	return conn, nil
}

func dialVsock(ctx context.Context, cid, port uint32) (net.Conn, error) {
	conn, err := vsock.DialContext(ctx, cid, port, nil)
	if err != nil {
		return nil, err
	}
	return conn, nil
}
