package serial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"

	"vmfs/backends/hypervisor"
	"vmfs/internal/unixsock"
	"vmfs/internal/wait"
)

// The first byte that the process sends on a connection says whether it is the
// console's. NUL is nothing to a terminal, so that people can connect with any program.
const (
	taken = 0
	// refusal is what one is told, as a line, who comes while another is connected.
	refusal = "another client is connected to this console\r\n"
)

// restartWait is how long a process that was killed may take to be there again.
const restartWait = 2 * time.Second

// A Conn is the one connection to a console. It is a hypervisor.Drainer.
type Conn struct{ *net.UnixConn }

var _ hypervisor.Drainer = Conn{}

// Close ends the connection, after which there is room for the next at once. Closing the
// descriptor is not enough for that: a process that was forked and has not executed its
// program yet has a copy of it.
func (c Conn) Close() error {
	_, _ = c.CloseWrite(), c.CloseRead() // it may have ended already
	return c.UnixConn.Close()
}

// Open connects to the console that the process serves. What the guest prints from now
// on is read, but for the oldest of more than maxUnread that nobody reads; what
// is written is typed. While somebody else is connected it is an ErrBusy.
func Open(ctx context.Context, console string) (Conn, error) {
	until := time.Now().Add(restartWait)
	pause := wait.Backoff{First: time.Millisecond, Most: 50 * time.Millisecond}
	for absent := error(nil); ; {
		c, err := open(ctx, console)
		if err != nil && absent != nil && ctx.Err() != nil {
			return Conn{}, fmt.Errorf("%w (%w)", context.Cause(ctx), absent)
		}
		again := unixsock.Unserved(err) || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)
		if err == nil || !again || time.Now().After(until) {
			return c, err
		}
		absent = err
		_ = pause.Wait(ctx) // if it ends, that is seen above
	}
}

func open(ctx context.Context, console string) (_ Conn, err error) {
	c, err := unixsock.Dial(ctx, console)
	if err != nil {
		return Conn{}, err
	}
	defer func() {
		if err != nil {
			_ = c.Close() // nothing was written
		}
	}()
	stop := wait.Interrupt(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	var first [1]byte
	_, err = io.ReadFull(c, first[:])
	switch ended := stop(); {
	case ended:
		return Conn{}, context.Cause(ctx)
	case err != nil:
		return Conn{}, err
	case first[0] != taken:
		return Conn{}, fmt.Errorf("%s: %w", strings.TrimSpace(refusal), hypervisor.ErrBusy)
	}
	return Conn{c}, nil
}

// Drained reports whether the VMM has taken all that was written.
func (c Conn) Drained() bool {
	// The process leaves what it is given where it is until the VMM has taken it.
	n, err := unixsock.Unread(c.UnixConn)
	return err == nil && n == 0
}
