package control

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A Dialer reaches the ports of one guest; a hypervisor.VsockDialer is one.
type Dialer interface {
	DialVsock(ctx context.Context, port int) (net.Conn, error)
}

// A Client asks one guest's agent over one stream. Its methods may be called at the same
// time: each waits for its turn. A call whose context ends before its answer is there
// ends the stream, and so does a line that is none of this protocol: later calls fail.
type Client struct {
	turn chan struct{} // holds a token while nobody has a request under way
	conn net.Conn
	r    *bufio.Reader

	mu     sync.Mutex // guards broken
	broken error
}

// Dial connects to the guest's agent, and asks whether it is one that this client
// understands.
func Dial(ctx context.Context, d Dialer) (*Client, error) {
	conn, err := d.DialVsock(ctx, Port)
	if err != nil {
		return nil, fmt.Errorf("control port of the guest's agent: %w", err)
	}
	c := NewClient(conn)
	a, err := c.Hello(ctx)
	if err == nil && a.Version > Version {
		err = fmt.Errorf("control port of the guest's agent: version %d of the protocol, newer than this program's, which is %d: %w", a.Version, Version, ErrProtocol)
	}
	if err != nil {
		_ = c.Close() // nothing was asked for
		return nil, err
	}
	return c, nil
}

// NewClient returns a client on a stream to the control port. Its Close closes conn.
func NewClient(conn net.Conn) *Client {
	c := &Client{turn: make(chan struct{}, 1), conn: conn, r: bufio.NewReaderSize(conn, MaxLine)}
	c.turn <- struct{}{}
	return c
}

// Close ends the stream; a call that waits returns.
func (c *Client) Close() error { return c.conn.Close() }

// Agent is what an agent says of itself.
type Agent struct {
	Version  int
	Requests []string
}

// Hello asks what the agent understands.
func (c *Client) Hello(ctx context.Context) (Agent, error) {
	f, err := c.call(ctx, "hello")
	if err != nil {
		return Agent{}, err
	}
	v, err := strconv.Atoi(f["version"])
	if err != nil {
		return Agent{}, c.fail("hello", fmt.Errorf("%w: version=%q", ErrProtocol, f["version"]))
	}
	return Agent{Version: v, Requests: strings.Split(f["requests"], ",")}, nil
}

// Memory is the guest's memory, in bytes.
type Memory struct {
	// Actual is the size of the machine as it is now: what it booted with, and what was
	// plugged since, less what the balloon holds.
	Actual int64
	// Available is what programs in the guest could have of it without swapping.
	Available int64
}

// Memory asks what memory the guest has.
func (c *Client) Memory(ctx context.Context) (Memory, error) {
	f, err := c.call(ctx, "memory")
	if err != nil {
		return Memory{}, err
	}
	actual, err := f.bytes("actual")
	available, err2 := f.bytes("available")
	if err := errors.Join(err, err2); err != nil {
		return Memory{}, c.fail("memory", err)
	}
	return Memory{Actual: actual, Available: available}, nil
}

// Clock asks what time it is in the guest. It is between half and the whole of the
// call's duration old.
func (c *Client) Clock(ctx context.Context) (time.Time, error) {
	t, _, err := c.clock(ctx, "clock")
	return t, err
}

// SetClock sets the guest's time, and tells by how much it was changed. The guest's
// clock lags by what the request took to get there.
func (c *Client) SetClock(ctx context.Context, t time.Time) (step time.Duration, err error) {
	_, f, err := c.clock(ctx, "clock set="+formatTime(t))
	if err != nil {
		return 0, err
	}
	s, err := strconv.ParseFloat(f["step"], 64)
	if err != nil {
		return 0, c.fail("clock", fmt.Errorf("%w: step=%q", ErrProtocol, f["step"]))
	}
	return time.Duration(s * float64(time.Second)), nil
}

func (c *Client) clock(ctx context.Context, request string) (time.Time, fields, error) {
	f, err := c.call(ctx, request)
	if err != nil {
		return time.Time{}, nil, err
	}
	t, err := parseTime(f["unix"])
	if err != nil {
		return time.Time{}, nil, c.fail("clock", err)
	}
	return t, f, nil
}

// call sends a request and returns the fields of its answer. The error is a *Refusal
// where the agent refused.
func (c *Client) call(ctx context.Context, request string) (fields, error) {
	name, _, _ := strings.Cut(request, " ")
	select {
	case <-c.turn:
		defer func() { c.turn <- struct{}{} }()
	case <-ctx.Done():
		return nil, failure(name, context.Cause(ctx))
	}
	c.mu.Lock()
	broken := c.broken
	c.mu.Unlock()
	if broken != nil {
		return nil, failure(name, broken)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(time.Unix(1, 0)) })
	line, err := c.exchange(request)
	if !stop() {
		err = errors.Join(context.Cause(ctx), err)
	}
	if err != nil {
		return nil, c.fail(name, err)
	}
	if text, refused := strings.CutPrefix(line, "error "); refused {
		code, text, _ := strings.Cut(text, " ")
		return nil, failure(name, &Refusal{Code: Code(code), Text: text})
	}
	word, f, err := parseLine(line)
	if err == nil && word != "ok" {
		err = fmt.Errorf("%w: answer %q", ErrProtocol, line)
	}
	if err != nil {
		return nil, c.fail(name, err)
	}
	return f, nil
}

func (c *Client) exchange(request string) (string, error) {
	if _, err := io.WriteString(c.conn, request+"\n"); err != nil {
		return "", err
	}
	line, err := readLine(c.r)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return line, err
}

// fail says that the stream is of no use any more.
func (c *Client) fail(name string, err error) error {
	c.mu.Lock()
	c.broken = fmt.Errorf("the stream has ended by an earlier request: %w", err)
	c.mu.Unlock()
	_ = c.conn.Close() // nothing that was written counts
	return failure(name, err)
}

func failure(name string, err error) error {
	return fmt.Errorf("control port of the guest's agent: %s: %w", name, err)
}
