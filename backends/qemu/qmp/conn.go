package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"

	goqemu "github.com/digitalocean/go-qemu/qmp"

	"vmfs/internal/unixsock"
)

// Event and Version are go-qemu's.
type (
	Event   = goqemu.Event
	Version = goqemu.Version
)

// MaxLine is the longest line that a connection takes. QEMU's longest,
// query-qmp-schema, has some 200 KiB; the bound keeps a QEMU that was taken
// over by its guest from taking the server's memory too.
const MaxLine = 1 << 20

const (
	// maxEvent is the longest line whose event is told with its data: QEMU's have some
	// hundred bytes, and what they become in memory is many times that.
	maxEvent = 64 << 10
	// maxWords bounds what is told of QEMU's words, in bytes.
	maxWords = 2000
)

// A Conn is a connection to a QMP monitor. Its methods may be called from any
// goroutine.
type Conn struct {
	nc    net.Conn
	sendq chan *request // unbuffered: a request is either with its caller or with the writer

	ready chan struct{} // closed when the monitor takes commands
	done  chan struct{} // closed when the connection has ended
	wg    sync.WaitGroup

	mu       sync.Mutex // guards the fields below
	started  bool
	err      error // why the connection ended; set before done is closed
	version  Version
	nextID   uint64
	pending  map[string]chan *message
	subs     map[*Subscription]struct{}
	greeting chan struct{} // closed when the greeting has come
}

// request is one line to send, with the files that go along.
type request struct {
	line  []byte
	files []*os.File
	sent  chan error // gets the outcome of the write; buffered
}

// message is any line that QEMU sends.
type message struct {
	Greeting *struct {
		Version Version `json:"version"`
	} `json:"QMP"`
	ID     json.RawMessage `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Event string `json:"event"`
}

// command is a line to QEMU.
type command struct {
	goqemu.Command
	ID string `json:"id"`
}

// Dial connects to the monitor that listens on the Unix socket at path. The
// connection does nothing before Start.
func Dial(ctx context.Context, path string) (*Conn, error) {
	nc, err := unixsock.Dial(ctx, path)
	if err != nil {
		return nil, err
	}
	return NewConn(nc), nil
}

// NewConn makes a connection of nc, which it owns from then on.
func NewConn(nc net.Conn) *Conn {
	return &Conn{
		nc:       nc,
		sendq:    make(chan *request),
		ready:    make(chan struct{}),
		done:     make(chan struct{}),
		greeting: make(chan struct{}),
		pending:  make(map[string]chan *message),
		subs:     make(map[*Subscription]struct{}),
	}
}

// Start begins to receive and negotiates the protocol. A Subscription made
// before Start misses no event. It does not wait: see Ready. A second Start
// does nothing.
func (c *Conn) Start() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.started || c.err != nil {
		return
	}
	c.started = true
	c.wg.Go(c.read)
	c.wg.Go(c.write)
	c.wg.Go(c.negotiate)
}

// Ready returns nil as soon as the monitor takes commands.
func (c *Conn) Ready(ctx context.Context) error {
	select {
	case <-c.ready:
		return nil
	case <-c.done:
		return c.Err()
	case <-ctx.Done():
		return fmt.Errorf("qmp: no greeting from QEMU: %w", ctx.Err())
	}
}

// Version returns what the greeting says of QEMU's version. It is the zero
// Version before Ready.
func (c *Conn) Version() Version {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.version
}

// Done returns a channel that is closed when the connection has ended.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err returns why the connection ended: an error that is ErrDisconnected,
// ErrClosed or ErrProtocol. It returns nil while the connection lives.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// NetConn returns the underlying connection, for its addresses and credentials.
func (c *Conn) NetConn() net.Conn { return c.nc }

// Close ends the connection. Calls that wait return with ErrClosed. When it
// returns no goroutine of the connection is left.
func (c *Conn) Close() error {
	c.fail(ErrClosed)
	c.wg.Wait()
	return nil
}

// Execute runs a command and waits for its reply, which it stores in result
// unless that is nil. Args is what JSON makes the arguments of, or nil.
//
// When QEMU refuses, the error is an *Error. When ctx ends first, the error
// wraps ctx's, and QEMU may yet carry the command out.
func (c *Conn) Execute(ctx context.Context, name string, args, result any) error {
	return c.ExecuteFiles(ctx, name, args, result)
}

// ExecuteFiles is Execute with files handed over along with the command, as
// getfd and add-fd want it. QEMU gets descriptors of its own; the caller keeps
// and closes its files.
func (c *Conn) ExecuteFiles(ctx context.Context, name string, args, result any, files ...*os.File) error {
	if err := c.Ready(ctx); err != nil {
		return err
	}
	ret, err := c.roundTrip(ctx, name, args, files)
	if err != nil {
		return err
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(ret, result); err != nil {
		return fmt.Errorf("qmp: reply to %s: %w", name, err)
	}
	return nil
}

// roundTrip sends a command and returns what its reply returns.
func (c *Conn) roundTrip(ctx context.Context, name string, args any, files []*os.File) (json.RawMessage, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("qmp: %s: %w", name, err)
	}
	reply := make(chan *message, 1)
	c.mu.Lock()
	if c.err != nil {
		defer c.mu.Unlock()
		return nil, c.err
	}
	c.nextID++
	id := strconv.FormatUint(c.nextID, 10)
	c.pending[id] = reply
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.pending, id)
		c.mu.Unlock()
	}()

	line, err := json.Marshal(command{goqemu.Command{Execute: name, Args: args}, id})
	if err != nil {
		return nil, fmt.Errorf("qmp: arguments of %s: %w", name, err)
	}
	req := &request{line: append(line, '\n'), files: files, sent: make(chan error, 1)}
	select {
	case c.sendq <- req:
	case <-c.done:
		return nil, c.Err()
	case <-ctx.Done():
		return nil, fmt.Errorf("qmp: %s: QEMU takes no commands: %w", name, ctx.Err())
	}
	// The writer may be stuck with the line for as long as QEMU hangs. The
	// outcome of the write matters only where files go along; otherwise a write
	// that fails ends the connection.
	sent := req.sent
	for {
		select {
		case err := <-sent:
			if err != nil {
				return nil, fmt.Errorf("qmp: %s: %w", name, err)
			}
			sent = nil
		case m := <-reply:
			return m.result(name)
		case <-c.done:
			select { // a last reply may have come right before the end
			case m := <-reply:
				return m.result(name)
			default:
				return nil, c.Err()
			}
		case <-ctx.Done():
			return nil, fmt.Errorf("qmp: %s: no reply from QEMU: %w", name, ctx.Err())
		}
	}
}

func (m *message) result(name string) (json.RawMessage, error) {
	if m.Error != nil {
		return nil, &Error{Command: name, Class: brief(m.Error.Class), Desc: brief(m.Error.Desc)}
	}
	return m.Return, nil
}

// fail ends the connection for the reason err, once.
func (c *Conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = err
	_ = c.nc.Close()
	close(c.done)
	for s := range c.subs {
		s.queue.End(err)
	}
	clear(c.subs)
}

// negotiate leaves the mode in which a new monitor takes no other command.
func (c *Conn) negotiate() {
	select {
	case <-c.greeting:
	case <-c.done:
		return
	}
	// Ends when the connection does, and that is all the bound it needs: nobody
	// waits for it but by Ready.
	if _, err := c.roundTrip(context.Background(), "qmp_capabilities", nil, nil); err != nil {
		c.fail(fmt.Errorf("%w: %w", ErrProtocol, err))
		return
	}
	close(c.ready)
}

// write is the only goroutine that sends, so that a line once begun is ended
// whatever becomes of its caller.
func (c *Conn) write() {
	for {
		select {
		case req := <-c.sendq:
			err := c.send(req)
			req.sent <- err
		case <-c.done:
			return
		}
	}
}

// send writes one request. An error of the connection ends it; a request that
// cannot be sent at all, because a file of it is closed, is given back.
func (c *Conn) send(req *request) error {
	line := req.line
	if len(req.files) > 0 {
		uc, ok := c.nc.(*net.UnixConn)
		if !ok {
			return errors.New("files can only be handed over on a Unix socket")
		}
		n, err := unixsock.SendFiles(uc, line, req.files)
		if err != nil && n == 0 {
			return err
		}
		line = line[n:]
	}
	if _, err := c.nc.Write(line); err != nil {
		c.fail(fmt.Errorf("%w: %w", ErrDisconnected, err))
	}
	return nil
}

// read receives until the connection ends.
func (c *Conn) read() {
	r := bufio.NewReaderSize(c.nc, 64<<10)
	greeted := false
	for {
		line, err := readLine(r, MaxLine)
		if err != nil {
			if !errors.Is(err, ErrProtocol) {
				err = fmt.Errorf("%w: %w", ErrDisconnected, err)
			}
			c.fail(err)
			return
		}
		if len(line) == 0 {
			continue
		}
		var m message
		if err := json.Unmarshal(line, &m); err != nil {
			c.fail(fmt.Errorf("%w: %q: %w", ErrProtocol, clip(line), err))
			return
		}
		switch {
		case m.Greeting != nil:
			if !greeted {
				greeted = true
				c.mu.Lock()
				c.version = m.Greeting.Version
				c.mu.Unlock()
				close(c.greeting)
			}
		case m.Event != "":
			ev, err := eventOf(line)
			if err != nil {
				c.fail(fmt.Errorf("%w: event %s: %w", ErrProtocol, brief(m.Event), err))
				return
			}
			c.publish(ev)
		case !greeted:
			c.fail(fmt.Errorf("%w: no greeting but %q", ErrProtocol, clip(line)))
			return
		default:
			c.deliver(&m)
		}
	}
}

// eventOf reads an event; of a line that is too long all but its data.
func eventOf(line []byte) (ev Event, err error) {
	if len(line) <= maxEvent {
		err = json.Unmarshal(line, &ev)
		return ev, err
	}
	var head struct {
		Event     string          `json:"event"`
		Data      json.RawMessage `json:"data"`
		Timestamp json.RawMessage `json:"timestamp"`
	}
	if err := json.Unmarshal(line, &head); err != nil {
		return ev, err
	}
	if len(head.Event)+len(head.Timestamp) > maxEvent {
		return ev, errors.New("its name is too long")
	}
	ev.Event = head.Event
	if len(head.Timestamp) > 0 {
		err = json.Unmarshal(head.Timestamp, &ev.Timestamp)
	}
	return ev, err
}

// brief is QEMU's words for people.
func brief(s string) string {
	if len(s) <= maxWords {
		return s
	}
	return strings.ToValidUTF8(s[:maxWords], "") + "…"
}

// deliver hands a reply to the call that waits for it. A reply that nobody
// waits for any more is dropped.
func (c *Conn) deliver(m *message) {
	var id string
	if json.Unmarshal(m.ID, &id) != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if ch, ok := c.pending[id]; ok {
		delete(c.pending, id)
		ch <- m
	}
}

// readLine returns the next line without its end, however long up to limit.
func readLine(r *bufio.Reader, limit int) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > limit {
			return nil, fmt.Errorf("%w: a line of more than %d bytes", ErrProtocol, limit)
		}
		switch {
		case err == nil:
			for len(line) > 0 && (line[len(line)-1] == '\n' || line[len(line)-1] == '\r') {
				line = line[:len(line)-1]
			}
			return line, nil
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && len(line) > 0:
			return nil, io.ErrUnexpectedEOF
		default:
			return nil, err
		}
	}
}

// clip shortens a line for an error.
func clip(line []byte) []byte { return line[:min(len(line), 80)] }
