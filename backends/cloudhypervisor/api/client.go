package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"syscall"

	"vmfs/backends/hypervisor"
	"vmfs/internal/unixsock"
)

const (
	// maxConns is how many calls are under way at the same time; others wait. The VMM answers
	// them one after the other, and takes no more than ten connections from everybody.
	maxConns = 4
	// maxIdle is how many connections are kept between calls.
	maxIdle = 1
	// maxRequest is the longest body that Cloud Hypervisor takes.
	maxRequest = 51200
)

// notFound is HTTP's status.
const notFound = 404

// A Client speaks to the VMM that serves one socket. It connects when it is called and not
// before. Its methods may be called from any goroutine.
type Client struct {
	socket string
	slots  chan struct{} // holds one for each call under way

	mu     sync.Mutex // guards the fields below
	closed bool
	open   map[*conn]struct{} // every connection that there is
	idle   []*conn            // those of them that nobody uses
}

// New returns a client of the VMM that serves the socket, whether or not it does already.
func New(socket string) *Client {
	return &Client{socket: socket, slots: make(chan struct{}, maxConns), open: make(map[*conn]struct{})}
}

// Close ends the client's connections. Calls that wait return, with ErrClosed.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed, c.idle = true, nil
	for cn := range c.open {
		_ = cn.nc.Close() // the call under way says what became of it
	}
	clear(c.open)
	return nil
}

// get asks.
func (c *Client) get(ctx context.Context, call string, answer any) error {
	b, err := c.call(ctx, request{method: "GET", call: call})
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, answer); err != nil {
		return fmt.Errorf("%s: %w: %w", call, ErrProtocol, err)
	}
	return nil
}

// put gives an order, with a body unless that is nil, and with files.
func (c *Client) put(ctx context.Context, call string, body any, files ...*os.File) error {
	r := request{method: "PUT", call: call, files: files}
	if body != nil {
		var err error
		if r.body, err = json.Marshal(body); err != nil {
			return fmt.Errorf("%s: %w", call, err)
		}
		if len(r.body) > maxRequest {
			return fmt.Errorf("%s: %w: it takes %d bytes to say, and Cloud Hypervisor reads %d", call, hypervisor.ErrInvalid, len(r.body), maxRequest)
		}
	}
	_, err := c.call(ctx, r)
	return err
}

// call makes one request and returns the body of its answer.
func (c *Client) call(ctx context.Context, r request) ([]byte, error) {
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: Cloud Hypervisor is busy with other calls: %w", r.call, ctx.Err())
	}
	defer func() { <-c.slots }()
	for {
		cn, kept, err := c.conn(ctx)
		if err != nil {
			return nil, c.failed(ctx, r, err)
		}
		a, err := cn.roundTrip(ctx, r)
		c.done(cn, err == nil && a.keep)
		if kept && errors.Is(err, errUnsent) && errors.Is(err, syscall.EPIPE) {
			continue // it was closed while nobody used it: that says nothing of who serves now
		}
		if err != nil {
			return nil, c.failed(ctx, r, err)
		}
		if a.status < 200 || a.status > 299 {
			return nil, refusal(r.call, a.status, a.body)
		}
		return a.body, nil
	}
}

// failed makes of what kept a call from its answer what the caller is told.
func (c *Client) failed(ctx context.Context, r request, err error) error {
	c.mu.Lock()
	closed := c.closed
	c.mu.Unlock()
	switch {
	case closed:
		err = ErrClosed
	case ctx.Err() != nil:
		err = fmt.Errorf("no answer from Cloud Hypervisor: %w", ctx.Err())
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		// The errno is not wrapped: a missing socket is not a missing file of anybody's.
		err = fmt.Errorf("%w: nobody serves %s: %v", hypervisor.ErrHypervisorNotRunning, c.socket, err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNRESET):
		err = fmt.Errorf("%w: it hung up without an answer", hypervisor.ErrHypervisorNotRunning)
	}
	return fmt.Errorf("%s: %w", r.call, err)
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

// done takes a connection back after a call, and keeps it if it can be used again.
func (c *Client) done(cn *conn, keep bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if keep && !c.closed && len(c.idle) < maxIdle {
		c.idle = append(c.idle, cn)
		return
	}
	delete(c.open, cn)
	_ = cn.nc.Close() // the call has its answer, or its error
}
