package vsock

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"

	"vmfs/internal/unixsock"
)

// DefaultTimeout bounds a dial whose Timeout is not set and whose context
// allows more.
const DefaultTimeout = 10 * time.Second

// Hybrid reaches one guest through a Unix socket that speaks the hybrid vsock
// protocol. It holds no state: copies are equal.
type Hybrid struct {
	// Socket is the path of the Unix socket.
	Socket string
	// Timeout bounds a dial; zero means DefaultTimeout. The context bounds it
	// too: the earlier end counts.
	Timeout time.Duration
}

// Key names the guest for pooling: equal keys reach the same guest.
func (h *Hybrid) Key() string { return "unix:" + h.Socket }

// DialVsock connects to the guest's port. The connection has CloseWrite and
// CloseRead (see Conn). It returns when the guest has accepted, refused or not
// answered in time.
func (h *Hybrid) DialVsock(ctx context.Context, port int) (net.Conn, error) {
	fail := func(err error) (net.Conn, error) {
		return nil, fmt.Errorf("vsock: dial port %d by %s: %w", port, h.Socket, err)
	}
	if err := CheckPort(port); err != nil {
		return fail(err)
	}
	ctx, cancel := withTimeout(ctx, h.Timeout)
	defer cancel()

	c, err := unixsock.Dial(ctx, h.Socket)
	switch {
	case unixsock.Unserved(err):
		// The errno is not wrapped: ECONNREFUSED here must not be taken for
		// the guest's refusal.
		return fail(fmt.Errorf("%w: %v; is the VM running?", ErrUnavailable, err))
	case err != nil:
		return fail(err)
	}
	hostPort, err := handshake(ctx, c, port)
	if err != nil {
		_ = c.Close()
		return fail(err)
	}
	return &hybridConn{
		UnixConn: c,
		local:    Addr{Socket: h.Socket, Port: hostPort},
		remote:   Addr{Socket: h.Socket, Port: port},
	}, nil
}

// handshake asks for port and returns the port the host's end was given. What
// the guest sent behind the answer stays in the socket, so that c can be used
// as it is, by splice(2) too.
func handshake(ctx context.Context, c *net.UnixConn, port int) (int, error) {
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	hostPort, err := func() (int, error) {
		if _, err := c.Write([]byte("CONNECT " + strconv.Itoa(port) + "\n")); err != nil {
			return 0, handshakeError(err)
		}
		line, err := readLine(c)
		if err != nil {
			return 0, handshakeError(err)
		}
		word, ok := strings.CutPrefix(line, "OK ")
		n, perr := strconv.ParseUint(word, 10, 32)
		if !ok || perr != nil {
			return 0, fmt.Errorf("%w: answer %q instead of OK and a port", ErrProtocol, line)
		}
		return int(n), nil
	}()
	if !stop() && ctx.Err() != nil {
		// The deadline has been or will be set behind our back: the
		// connection is of no use, whatever the guest said.
		return 0, context.Cause(ctx)
	}
	return hostPort, err
}

// handshakeError tells a refusal from a device that went away.
func handshakeError(err error) error {
	switch {
	case errors.Is(err, io.EOF):
		return fmt.Errorf("%w: the guest has no listener on this port, or no vsock driver", ErrRefused)
	case errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNRESET):
		return fmt.Errorf("%w: it hung up before it read the request", ErrUnavailable)
	}
	return err
}

// readLine takes one line, and not a byte more, from c.
func readLine(c *net.UnixConn) (string, error) {
	rc, err := c.SyscallConn()
	if err != nil {
		return "", err
	}
	var buf [32]byte
	line := buf[:0]
	for len(line) < len(buf) {
		part, err := peek(rc, buf[len(line):])
		if err != nil {
			return "", err
		}
		end := bytes.IndexByte(part, '\n')
		if end >= 0 {
			part = part[:end+1]
		}
		// What was only looked at is taken now; it cannot block.
		if _, err := io.ReadFull(c, part); err != nil {
			return "", err
		}
		line = line[:len(line)+len(part)]
		if end >= 0 {
			return string(line[:len(line)-1]), nil
		}
	}
	return "", fmt.Errorf("%w: no end of line in %q", ErrProtocol, line)
}

// peek waits for bytes and copies them without taking them.
func peek(rc syscall.RawConn, buf []byte) ([]byte, error) {
	var n int
	var rerr error
	err := rc.Read(func(fd uintptr) bool {
		for {
			n, _, rerr = syscall.Recvfrom(int(fd), buf, syscall.MSG_PEEK)
			if rerr != syscall.EINTR {
				return rerr != syscall.EAGAIN
			}
		}
	})
	switch {
	case err != nil:
		return nil, err
	case rerr != nil:
		return nil, rerr
	case n == 0:
		return nil, io.EOF
	}
	return buf[:n], nil
}

// hybridConn is the Unix connection with the addresses of the vsock stream.
type hybridConn struct {
	*net.UnixConn
	local, remote Addr
}

var _ Conn = (*hybridConn)(nil)

func (c *hybridConn) LocalAddr() net.Addr  { return c.local }
func (c *hybridConn) RemoteAddr() net.Addr { return c.remote }

// withTimeout bounds ctx by d, or by DefaultTimeout if d is zero.
func withTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if d <= 0 {
		d = DefaultTimeout
	}
	return context.WithTimeout(ctx, d)
}
