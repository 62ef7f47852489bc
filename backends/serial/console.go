//go:build unix

package serial

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"vmfs/internal/unixsock"
	"vmfs/internal/wait"
)

const (
	// maxUnread is how much output waits for who is connected and does not read. Beyond
	// it the oldest is dropped: the serial log has it all.
	maxUnread = 256 << 10
	// maxTyped is how much of what was typed is given to the VMM at once.
	maxTyped = 4 << 10
	// maxTypists is how many clients may be there of whom all but one have hung up,
	// and have typed what the VMM has not taken.
	maxTypists = 8
	// goodbye is how long a client may take for the last of the output.
	goodbye = time.Second
	// acceptPause is how long it takes until a connection is tried to be accepted
	// again.
	acceptPause = 100 * time.Millisecond
)

// A Console is who is connected to the console of a VM: one client at a time, who has all
// output from then on. One who hangs up makes room for the next at once; what was typed
// goes to the guest in the order of the clients. See Open for the other end.
type Console struct {
	turn chan struct{} // has a token while a client types

	mu      sync.Mutex // guards the fields below, and before a client's
	clients map[*client]struct{}
	current *client // who has the output, nil is nobody
	closed  bool
}

// NewConsole returns a console without clients.
func NewConsole() *Console {
	return &Console{turn: make(chan struct{}, 1), clients: make(map[*client]struct{})}
}

// Put gives output to who is connected. It never waits for him.
func (s *Console) Put(b []byte) {
	s.mu.Lock()
	c := s.current
	s.mu.Unlock()
	if c != nil {
		c.put(b)
	}
}

// Serve takes connections until ctx ends and the listener is closed. What is typed it gives
// to take, piece by piece: when that returns nil the guest's port has it.
func (s *Console) Serve(ctx context.Context, l *unixsock.Listener, take func(ctx context.Context, typed []byte) error, log *slog.Logger) {
	var clients sync.WaitGroup
	defer clients.Wait()
	for {
		conn, err := l.AcceptUnix()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			log.Warn("cannot accept a connection to the console", "err", err)
			if wait.For(ctx, acceptPause) != nil {
				return
			}
			continue
		}
		if c := s.admit(conn); c != nil {
			clients.Go(func() { s.run(ctx, c, take) })
		}
	}
}

// admit makes a new connection the console's, or refuses it.
func (s *Console) admit(conn *net.UnixConn) *client {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.current != nil && !hungUp(s.current.conn) || len(s.clients) >= maxTypists {
		_, _ = io.WriteString(conn, refusal) // it has room, or nobody reads it
		_ = conn.Close()
		return nil
	}
	if s.current != nil {
		s.current.end(0)
	}
	c := &client{conn: conn}
	c.more.L = &c.mu
	_, _ = conn.Write([]byte{taken}) // it has room, or nobody reads it
	s.current = c
	s.clients[c] = struct{}{}
	return c
}

// run serves one client until he has hung up and what he typed was taken.
func (s *Console) run(ctx context.Context, c *client, take func(context.Context, []byte) error) {
	var out sync.WaitGroup
	out.Go(c.send)
	s.read(ctx, c, take)
	if hungUp(c.conn) {
		c.end(0)
	}
	out.Wait() // one who types no more may read on
	_ = c.conn.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.clients, c)
	if s.current == c {
		s.current = nil
	}
}

// read gives the VMM what the client types, in his turn. It stays in his socket until
// the VMM has taken it, by which he knows (see Conn.Drained).
func (s *Console) read(ctx context.Context, c *client, take func(context.Context, []byte) error) {
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return
	}
	defer func() { <-s.turn }()
	b := make([]byte, maxTyped)
	for {
		n, err := peek(c.conn, b)
		if n == 0 || err != nil {
			return
		}
		if take(ctx, b[:n]) != nil {
			return
		}
		if _, err := io.ReadFull(c.conn, b[:n]); err != nil {
			return
		}
	}
}

// Close ends all clients, once they have the last of the output.
func (s *Console) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for c := range s.clients {
		_ = c.conn.SetReadDeadline(time.Unix(1, 0))
		c.end(goodbye)
	}
}

// A client is a connection to the console.
type client struct {
	conn *net.UnixConn
	more sync.Cond // of mu: something has changed

	mu     sync.Mutex // guards the fields below
	unread []byte
	ended  bool // no more will come
}

func (c *client) put(b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return
	}
	c.unread = append(c.unread, b...)
	if drop := len(c.unread) - maxUnread; drop > 0 {
		c.unread = append(c.unread[:0], c.unread[drop:]...)
	}
	c.more.Signal()
}

// end gives the client no more than he has, and that for as long as most.
func (c *client) end(most time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	_ = c.conn.SetWriteDeadline(time.Now().Add(most))
	c.more.Signal()
}

// send writes the output to the client until there is no more, or he is gone.
func (c *client) send() {
	for {
		c.mu.Lock()
		for len(c.unread) == 0 && !c.ended {
			c.more.Wait()
		}
		b := c.unread
		c.unread = nil
		c.mu.Unlock()
		if len(b) == 0 {
			return
		}
		if _, err := c.conn.Write(b); err != nil {
			return // he is gone, and what he typed is still to be taken
		}
	}
}

// peek waits for something to read, and leaves it there. With nothing to come it
// returns 0.
func peek(conn *net.UnixConn, b []byte) (n int, err error) {
	rc, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	perr := rc.Read(func(fd uintptr) bool {
		for {
			n, _, err = unix.Recvfrom(int(fd), b, unix.MSG_PEEK|unix.MSG_DONTWAIT)
			if !errors.Is(err, unix.EINTR) {
				return !errors.Is(err, unix.EAGAIN)
			}
		}
	})
	if perr != nil {
		return 0, perr
	}
	return max(n, 0), err
}

// hungUp tells whether the other end of a connection was closed, and not for one of
// the ways alone.
func hungUp(conn *net.UnixConn) bool {
	rc, err := conn.SyscallConn()
	if err != nil {
		return true
	}
	hung := false
	err = rc.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd)}}
		n, perr := unix.Poll(fds, 0)
		hung = perr == nil && n > 0 && fds[0].Revents&unix.POLLHUP != 0
	})
	return hung || err != nil
}
