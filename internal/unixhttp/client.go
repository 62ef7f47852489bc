package unixhttp

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"

	"vmfs/internal/unixsock"
)

const (
	// maxConns is how many requests are under way at the same time; others wait. Small servers
	// answer them one after the other, and take a few connections only from everybody.
	maxConns = 4
	// maxIdle is how many connections are kept between requests.
	maxIdle = 1
)

var (
	// ErrProtocol means that what answers does not speak HTTP/1.1, or more of it than is spoken here.
	ErrProtocol = errors.New("not an answer of HTTP")
	// ErrClosed means that the client was closed.
	ErrClosed = errors.New("the client is closed")
	// ErrBusy means that the context ended before the other requests under way were answered.
	ErrBusy = errors.New("what serves the socket is busy with other requests")
)

// A Client speaks to who serves one socket. It connects when it is asked to and not before. Its
// methods may be called from any goroutine.
type Client struct {
	socket string
	slots  chan struct{} // holds one for each request under way

	mu     sync.Mutex // guards the fields below
	closed bool
	open   map[*conn]struct{} // every connection that there is
	idle   []*conn            // those of them that nobody uses
}

// New returns a client of who serves the socket, whether or not somebody does already.
func New(socket string) *Client {
	return &Client{socket: socket, slots: make(chan struct{}, maxConns), open: make(map[*conn]struct{})}
}

// Close ends the client's connections. Requests under way return, with ErrClosed.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed, c.idle = true, nil
	for cn := range c.open {
		_ = cn.nc.Close() // the request under way says what became of it
	}
	clear(c.open)
	return nil
}

// Do makes one request and returns its answer, of whatever status. It returns soon after ctx ends.
// The error is the bare one of the system, of ctx, or one of this package.
func (c *Client) Do(ctx context.Context, r Request) (Answer, error) {
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		return Answer{}, fmt.Errorf("%w: %w", ErrBusy, ctx.Err())
	}
	defer func() { <-c.slots }()
	for {
		cn, kept, err := c.conn(ctx)
		if err != nil {
			return Answer{}, err
		}
		a, err := cn.roundTrip(ctx, r)
		open := c.done(cn, err == nil && a.keep)
		switch {
		case err == nil:
			return a, nil
		case !open:
			return Answer{}, ErrClosed
		case kept && errors.Is(err, errUnsent) && errors.Is(err, syscall.EPIPE):
			continue // it was closed while nobody used it: that says nothing of who serves now
		}
		return Answer{}, err
	}
}

// conn returns a connection that nobody uses: one that was kept, or a new one.
func (c *Client) conn(ctx context.Context) (cn *conn, kept bool, err error) {
	c.mu.Lock()
	if n := len(c.idle); n > 0 && !c.closed {
		cn = c.idle[n-1]
		c.idle = c.idle[:n-1]
	}
	c.mu.Unlock()
	if cn != nil {
		return cn, true, nil
	}
	nc, err := unixsock.Dial(ctx, c.socket)
	if err != nil {
		return nil, false, err
	}
	cn = newConn(nc)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		_ = nc.Close() // nothing was sent
		return nil, false, ErrClosed
	}
	c.open[cn] = struct{}{}
	return cn, false, nil
}

// done takes a connection back after a request, and keeps it if it can be used again. It says
// whether the client is open still.
func (c *Client) done(cn *conn, keep bool) (open bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if keep && !c.closed && len(c.idle) < maxIdle {
		c.idle = append(c.idle, cn)
		return true
	}
	delete(c.open, cn)
	_ = cn.nc.Close() // the request has its answer, or its error
	return !c.closed
}
