package streams

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"vmfs/backends/hypervisor"
	"vmfs/machine"
	"vmfs/machine/rc"
	"vmfs/vsock"
)

// A Conversation is one stream that several opens share, in the manner of Plan 9's
// /net. It is there while anybody has it open, and has one stream in its life.
type Conversation struct {
	v      *Guests
	vm     *machine.VM
	id     uint32
	number int // of its name
	name   string

	mu      sync.Mutex // guards what follows
	opens   int        // 0: it is gone
	state   convState
	port    uint32
	stream  *Conn         // nil before it is established
	changed chan struct{} // closed and replaced when state changes
	stop    func()        // ends an announcement that waits
	failed  error         // why an announcement came to nothing
}

type convState int

const (
	convIdle convState = iota
	convConnecting
	convAnnounced
	convEstablished
	convClosed
)

func (s convState) String() string {
	return [...]string{"idle", "connecting", "announced", "established", "closed"}[s]
}

// set changes the state. mu is held.
func (c *Conversation) set(s convState) {
	c.state = s
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *Conversation) errorf(format string, args ...any) error {
	return fmt.Errorf("vsock %s: conversation %s: %w", c.vm.Name(), c.name, fmt.Errorf(format, args...))
}

// ID is a number that no other conversation of its VM has, or had lately.
func (c *Conversation) ID() uint32 { return c.id }

// Name is the conversation's name: c0 and so on.
func (c *Conversation) Name() string { return c.name }

// Open counts one more who has it open, and will close it.
func (c *Conversation) Open() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.opens == 0 {
		return c.errorf("%w: its last open file was closed", machine.ErrNotFound)
	}
	c.opens++
	return nil
}

// Close counts one less, and ends the conversation with the last one.
func (c *Conversation) Close() {
	c.mu.Lock()
	c.opens--
	last := c.opens == 0
	st, stop := c.stream, c.stop
	if last {
		c.stop = nil
		c.set(convClosed)
	}
	c.mu.Unlock()
	if !last {
		return
	}
	if stop != nil {
		stop()
	}
	if st != nil {
		st.Close()
	}
	c.v.forget(c)
}

// convVerbs is what can be written to ctl.
const convVerbs = "connect PORT, announce PORT, shutdown write, hangup"

// Command carries out what is written to ctl: verbs, one a line.
func (c *Conversation) Command(ctx context.Context, text string) error {
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		words, err := rc.Split(line)
		if err == nil {
			err = c.verb(ctx, line, words)
		} else {
			err = c.errorf("%w: %w", hypervisor.ErrInvalid, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *Conversation) verb(ctx context.Context, line string, words []string) error {
	switch {
	case len(words) == 0:
		return nil
	case len(words) == 2 && (words[0] == "connect" || words[0] == "announce"):
		port, err := vsock.ParsePort(words[1])
		if err != nil {
			return c.errorf("%w: %q is not a port: want 1 to 4294967294", hypervisor.ErrInvalid, words[1])
		}
		if words[0] == "connect" {
			return c.connect(ctx, uint32(port))
		}
		return c.announce(ctx, uint32(port))
	case len(words) == 1 && words[0] == "hangup":
		c.hangup()
		return nil
	case len(words) == 2 && words[0] == "shutdown" && words[1] == "write":
		st, err := c.established()
		if err != nil {
			return err
		}
		return st.shutdown(ctx)
	}
	return c.errorf("%w: %q: want one of %s", hypervisor.ErrInvalid, line, convVerbs)
}

// begin takes the conversation's one chance to get a stream.
func (c *Conversation) begin(s convState, port uint32) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != convIdle {
		return c.errorf("it is %s already: open clone for another: %w", c.state, hypervisor.ErrBusy)
	}
	c.port = port
	c.set(s)
	return nil
}

// settle ends what begin began. Without a stream the conversation is idle again.
func (c *Conversation) settle(s *Conn, err error) {
	c.mu.Lock()
	closed := c.state == convClosed
	switch {
	case closed:
	case err != nil:
		c.failed = err
		c.set(convIdle)
	default:
		c.stream = s
		c.set(convEstablished)
	}
	c.stop = nil
	c.mu.Unlock()
	if closed && s != nil {
		s.Close()
	}
}

func (c *Conversation) connect(ctx context.Context, port uint32) error {
	if err := c.begin(convConnecting, port); err != nil {
		return err
	}
	s, err := c.v.Dial(ctx, c.vm, port)
	c.settle(s, err)
	return err
}

// announce listens on a port of the host. It returns when the guest can connect;
// opening data waits until it has.
func (c *Conversation) announce(ctx context.Context, port uint32) error {
	if err := c.begin(convAnnounced, port); err != nil {
		return err
	}
	l, err := c.v.listener(ctx, c.vm, port)
	if err != nil {
		c.settle(nil, err)
		if ctx.Err() == nil {
			c.vm.RecordError(fmt.Sprint("vsock announce ", port), err)
		}
		return err
	}
	wait, stop := context.WithCancel(c.v.ctx)
	c.mu.Lock()
	closed := c.state == convClosed
	c.stop = stop
	c.mu.Unlock()
	if closed || !c.v.spawn(func() {
		defer stop()
		c.settle(l.accept(wait))
	}) {
		stop()
		l.release()
	}
	return nil
}

// established returns the stream.
func (c *Conversation) established() (*Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != convEstablished {
		return nil, c.notConnected()
	}
	return c.stream, nil
}

// notConnected says what is missing. mu is held.
func (c *Conversation) notConnected() error {
	switch {
	case c.failed != nil:
		return c.failed
	case c.state == convClosed:
		return c.errorf("%w: it was hung up", ErrNotConnected)
	}
	return c.errorf("%w: write connect PORT or announce PORT to its ctl first", ErrNotConnected)
}

// hangup ends the stream at once, and whatever waits for one.
func (c *Conversation) hangup() {
	c.mu.Lock()
	st, stop := c.stream, c.stop
	c.stop = nil
	c.set(convClosed)
	c.mu.Unlock()
	if stop != nil {
		stop()
	}
	if st != nil {
		st.end()
	}
}

// Data opens the stream, for which it waits while one is under way.
func (c *Conversation) Data(ctx context.Context) (Stream, error) {
	if err := c.Open(); err != nil {
		return nil, err
	}
	for {
		c.mu.Lock()
		state, changed, st := c.state, c.changed, c.stream
		var err error
		if state == convIdle || state == convClosed {
			err = c.notConnected()
		}
		c.mu.Unlock()
		if err == nil {
			if state == convEstablished {
				return &convData{st, c}, nil
			}
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				err = ctx.Err()
			}
		}
		c.Close()
		return nil, err
	}
}

// convData is the stream as one of several has it open.
type convData struct {
	*Conn
	c *Conversation
}

func (f *convData) Close() { f.c.Close() }

// Status is how the conversation is, as lines of KEY=VALUE.
func (c *Conversation) Status() (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.opens == 0 {
		return "", c.errorf("%w: its last open file was closed", machine.ErrNotFound)
	}
	state, in, out, port := c.state, int64(0), int64(0), ""
	if st := c.stream; st != nil {
		in, out = st.received.Load(), st.sent.Load()
		if !st.alive() {
			state = convClosed
		}
	}
	if c.port != 0 {
		port = fmt.Sprintf("port=%d\n", c.port)
	}
	return fmt.Sprintf("state=%s\n%sin=%d\nout=%d\n", state, port, in, out), nil
}
