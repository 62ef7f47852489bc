package shimapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"vmfs/internal/queue"
	"vmfs/internal/unixsock"
	"vmfs/internal/wait"
)

var (
	// ErrGone means that nobody serves the control socket, or that the shim has hung up.
	ErrGone = errors.New("vz-shim is gone")
	// ErrClosed means that this client was closed.
	ErrClosed = fmt.Errorf("connection to vz-shim: %w", net.ErrClosed)
)

// maxEvents bounds the events that wait for their consumer: more than a shim keeps.
const maxEvents = 4096

// maxEventBytes bounds the memory of those, whatever a shim sends.
const maxEventBytes = 1 << 20

func (e Event) size() int { return 128 + len(e.Kind) + len(e.Reason) + len(e.Detail) }

// A Client is a connection to one shim. Its methods may be called at the same time.
type Client struct {
	conn    *net.UnixConn
	peer    unixsock.Peer // who is at the other end, unless that is not known
	unknown error
	events  *queue.Queue[Event]
	over    chan struct{} // closed when the reader has ended; err is set then
	err     error
	welcome chan struct{} // closed when hello was answered; Welcome is set then
	said    Welcome

	writing sync.Mutex // held while a line is written: a partial one would be the end

	mu      sync.Mutex // guards the fields below
	closed  bool
	last    uint64
	waiting map[uint64]chan Message
}

// Dial connects to the shim that serves the socket. Of its answers it waits for none.
func Dial(ctx context.Context, socket string) (*Client, error) {
	conn, err := unixsock.Dial(ctx, socket)
	switch {
	case unixsock.Unserved(err):
		return nil, fmt.Errorf("%w: %w", ErrGone, err)
	case err != nil:
		return nil, err
	}
	return NewClient(conn), nil
}

// NewClient returns a client on a connection, of which it closes the one.
func NewClient(conn *net.UnixConn) *Client {
	c := &Client{
		conn: conn, over: make(chan struct{}), welcome: make(chan struct{}), waiting: make(map[uint64]chan Message),
		events: queue.NewSized(maxEvents, maxEventBytes, Event.size, func(n int, last Event) Event {
			return Event{Seq: last.Seq, Time: last.Time, Kind: EventLost, Detail: fmt.Sprint(n)}
		}),
	}
	c.peer, c.unknown = unixsock.PeerOf(conn)
	go c.read() // ends with the connection, for which Close waits
	return c
}

// Peer is who the system says is at the other end.
func (c *Client) Peer() (unixsock.Peer, error) { return c.peer, c.unknown }

// Over is closed when the shim has hung up, or the client was closed.
func (c *Client) Over() <-chan struct{} { return c.over }

// Close ends the connection; calls that wait return.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	err := c.conn.Close()
	<-c.over
	return err
}

// read takes what the shim sends.
func (c *Client) read() {
	r := NewReader(c.conn)
	var err error
	for {
		var m Message
		if err = ReadLine(r, &m); err != nil {
			break
		}
		switch {
		case m.Event != nil:
			c.events.Put(*m.Event)
			continue
		case m.ID == helloID || m.ID == 0:
			if err = c.welcomed(m); err == nil {
				continue
			}
		}
		if err != nil {
			break
		}
		c.mu.Lock()
		w := c.waiting[m.ID]
		delete(c.waiting, m.ID)
		c.mu.Unlock()
		if w != nil {
			w <- m // it has room for one
		}
	}
	var refused *Error
	if !errors.Is(err, ErrProtocol) && !errors.As(err, &refused) {
		err = ErrGone
	}
	c.mu.Lock()
	if c.closed {
		err = ErrClosed
	}
	c.err = err
	c.mu.Unlock()
	_ = c.conn.Close() // there is nothing more to say
	c.events.End(err)
	close(c.over)
}

// helloID is the id of the first request.
const helloID = 1

// welcomed takes the answer to hello, or what a shim says that can answer no request. An error
// is the end.
func (c *Client) welcomed(m Message) error {
	if m.Error != nil {
		return m.Error
	}
	select {
	case <-c.welcome:
		return fmt.Errorf("%w: another answer to hello", ErrProtocol)
	default:
	}
	if err := json.Unmarshal(m.Result, &c.said); err != nil {
		return fmt.Errorf("%w: answer to hello: %w", ErrProtocol, err)
	}
	close(c.welcome)
	return nil
}

// NextEvent waits for the next event; see Events. When no more can come the error is
// ErrGone or ErrClosed.
func (c *Client) NextEvent(ctx context.Context) (Event, error) { return c.events.Next(ctx) }

// Call sends a request and waits for its answer, which becomes result unless that is nil.
// The error is an *Error where the shim has answered so. When ctx ends before, the
// request is cancelled.
func (c *Client) Call(ctx context.Context, method Method, params, result any) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := c.hello(ctx); err != nil {
		return err
	}
	return c.call(ctx, method, params, result)
}

func (c *Client) call(ctx context.Context, method Method, params, result any) error {
	id, answer, err := c.send(ctx, method, params)
	if err != nil {
		return err
	}
	var m Message
	select {
	case m = <-answer:
	case <-c.over:
		select {
		case m = <-answer: // it was there before the end
		default:
			return c.err
		}
	case <-ctx.Done():
		c.forget(id)
		return context.Cause(ctx)
	}
	if m.Error != nil {
		return m.Error
	}
	if result == nil || len(m.Result) == 0 {
		return nil
	}
	if err := json.Unmarshal(m.Result, result); err != nil {
		return fmt.Errorf("%w: answer to %s: %w", ErrProtocol, method, err)
	}
	return nil
}

// send writes a request. Ids go out in their order.
func (c *Client) send(ctx context.Context, method Method, params any) (uint64, chan Message, error) {
	req := Request{Method: method}
	if params != nil {
		b, err := json.Marshal(params)
		if err != nil {
			return 0, nil, err
		}
		req.Params = b
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	answer := make(chan Message, 1)
	c.mu.Lock()
	c.last++
	req.ID = c.last
	c.waiting[req.ID] = answer
	c.mu.Unlock()
	line, err := Line(req)
	if err == nil {
		err = c.write(ctx, line)
	}
	if err != nil {
		c.mu.Lock()
		delete(c.waiting, req.ID)
		c.mu.Unlock()
		return 0, nil, err
	}
	return req.ID, answer, nil
}

// write writes a line. A shim that does not read makes it wait, as far as ctx lets it; of
// a line that was cut off the connection ends.
func (c *Client) write(ctx context.Context, line []byte) error {
	stop := wait.Interrupt(ctx, func() { _ = c.conn.SetWriteDeadline(time.Unix(1, 0)) })
	n, err := c.conn.Write(line)
	if stop() {
		_ = c.conn.SetWriteDeadline(time.Time{})
		if err != nil {
			if n > 0 {
				_ = c.conn.Close()
			}
			return context.Cause(ctx)
		}
	}
	if err == nil {
		return nil
	}
	_ = c.conn.Close()
	<-c.over
	return c.err
}

// forget tells the shim that nobody waits for a request any more. It does not wait.
func (c *Client) forget(id uint64) {
	c.mu.Lock()
	delete(c.waiting, id)
	c.mu.Unlock()
	if !c.writing.TryLock() {
		return // a line that waits for the shim: it would not read this one either
	}
	defer c.writing.Unlock()
	c.mu.Lock()
	c.last++
	next := c.last
	c.mu.Unlock()
	params, _ := json.Marshal(Cancel{ID: id}) // a number is always one
	line, err := Line(Request{ID: next, Method: MethodCancel, Params: params})
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), cancelWait)
	defer cancel()
	_ = c.write(ctx, line) // the shim goes through with it, and answers nobody
}

// cancelWait bounds the writing of a cancel.
const cancelWait = 100 * time.Millisecond

// hello begins the conversation, once. A shim that does not answer makes every call wait.
func (c *Client) hello(ctx context.Context) error {
	_, err := c.Welcome(ctx)
	return err
}

// Welcome says whose shim it is.
func (c *Client) Welcome(ctx context.Context) (Welcome, error) {
	if err := c.greet(ctx); err != nil {
		return Welcome{}, err
	}
	select {
	case <-c.welcome:
		return c.said, nil
	case <-c.over:
		return Welcome{}, c.err
	case <-ctx.Done():
		return Welcome{}, context.Cause(ctx)
	}
}

// greet sends hello with the first request of all, and has its answer taken.
func (c *Client) greet(ctx context.Context) error {
	c.writing.Lock()
	c.mu.Lock()
	first := c.last == 0
	c.mu.Unlock()
	if !first {
		c.writing.Unlock()
		return nil
	}
	c.mu.Lock()
	c.last = helloID
	c.mu.Unlock()
	params, _ := json.Marshal(Hello{Min: MinVersion, Max: Version}) // numbers are always some
	line, err := Line(Request{ID: helloID, Method: MethodHello, Params: params})
	if err == nil {
		err = c.write(context.WithoutCancel(ctx), line) // it has room: nothing was written before
	}
	c.writing.Unlock()
	if err != nil {
		return err
	}
	return nil
}
