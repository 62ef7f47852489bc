package fs

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"

	"github.com/hugelgupf/p9/p9"

	"vmfs/backends/hypervisor"
	"vmfs/machine"
	"vmfs/machine/rc"
)

// conversation is one stream that several opens share, in the manner of Plan 9's
// /net. It is there while any of its files is open, status and the directory not
// counted, and has one stream in its life.
type conversation struct {
	v    *vsocks
	vm   *machine.VM
	id   uint32
	name string

	mu      sync.Mutex // guards what follows
	opens   int        // 0: it is gone
	state   convState
	port    uint32
	stream  *vsockStream  // nil before it is established
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
func (c *conversation) set(s convState) {
	c.state = s
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *conversation) errorf(format string, args ...any) error {
	return fmt.Errorf("vsock %s: conversation %s: %w", c.vm.Name(), c.name, fmt.Errorf(format, args...))
}

// open counts one more open file.
func (c *conversation) open() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.opens == 0 {
		return c.errorf("%w: its last open file was closed", machine.ErrNotFound)
	}
	c.opens++
	return nil
}

// close counts one open file less, and ends the conversation with the last one.
func (c *conversation) close() {
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
		st.close()
	}
	c.v.forget(c)
}

// convVerbs is what can be written to ctl.
const convVerbs = "connect PORT, announce PORT, shutdown write, hangup"

// command carries out one line.
func (c *conversation) command(ctx context.Context, line string) error {
	words, err := rc.Split(line)
	if err != nil {
		return c.errorf("%w: %w", hypervisor.ErrInvalid, err)
	}
	switch {
	case len(words) == 0:
		return nil
	case len(words) == 2 && (words[0] == "connect" || words[0] == "announce"):
		port, err := parsePort(c.vm, words[0], words[1])
		if err != nil {
			return c.errorf("%w: %q is not a port: want 1 to 4294967294", hypervisor.ErrInvalid, words[1])
		}
		if words[0] == "connect" {
			return c.connect(ctx, port)
		}
		return c.announce(ctx, port)
	case len(words) == 2 && words[0] == "shutdown" && words[1] == "write":
		st, err := c.established()
		if err != nil {
			return err
		}
		return st.shutdown(ctx)
	case len(words) == 1 && words[0] == "hangup":
		c.hangup()
		return nil
	}
	return c.errorf("%w: %q: want one of %s", hypervisor.ErrInvalid, line, convVerbs)
}

// begin takes the conversation's one chance to get a stream.
func (c *conversation) begin(s convState, port uint32) error {
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
func (c *conversation) settle(s *vsockStream, err error) {
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
		s.close()
	}
}

func (c *conversation) connect(ctx context.Context, port uint32) error {
	if err := c.begin(convConnecting, port); err != nil {
		return err
	}
	s, err := c.v.dial(ctx, c.vm, port)
	c.settle(s, err)
	return err
}

// announce listens on a port of the host. It returns when the guest can connect;
// opening data waits until it has.
func (c *conversation) announce(ctx context.Context, port uint32) error {
	if err := c.begin(convAnnounced, port); err != nil {
		return err
	}
	l, err := c.v.listener(ctx, c.vm, port)
	if err != nil {
		c.settle(nil, err)
		if ctx.Err() == nil {
			c.vm.RecordError("vsock announce "+portName(port), err)
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
func (c *conversation) established() (*vsockStream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != convEstablished {
		return nil, c.notConnected()
	}
	return c.stream, nil
}

// notConnected says what is missing. mu is held.
func (c *conversation) notConnected() error {
	switch {
	case c.failed != nil:
		return c.failed
	case c.state == convClosed:
		return c.errorf("%w: it was hung up", errNotConnected)
	}
	return c.errorf("%w: write connect PORT or announce PORT to its ctl first", errNotConnected)
}

// hangup ends the stream at once, and whatever waits for one.
func (c *conversation) hangup() {
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

// openData opens data, for which it waits until there is a stream under way.
func (c *conversation) openData(ctx context.Context, _ *node, _ p9.OpenFlags) (stream, error) {
	if err := c.open(); err != nil {
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
				return &convData{c, st}, nil
			}
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				err = ctx.Err()
			}
		}
		c.close()
		return nil, err
	}
}

func (c *conversation) openCtl(context.Context, *node, p9.OpenFlags) (stream, error) {
	if err := c.open(); err != nil {
		return nil, err
	}
	return &convCtl{c: c, rest: rest(c.name + "\n")}, nil
}

// appendStatus is the content of status.
func (c *conversation) appendStatus(b []byte) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.opens == 0 {
		return nil, c.errorf("%w: its last open file was closed", machine.ErrNotFound)
	}
	state, in, out := c.state, int64(0), int64(0)
	if st := c.stream; st != nil {
		in, out = st.in.Load(), st.out.Load()
		if !st.alive() {
			state = convClosed
		}
	}
	b = append(b, "state="+state.String()+"\n"...)
	if c.port != 0 {
		b = append(b, "port="+portName(c.port)+"\n"...)
	}
	b = append(b, "in="+strconv.FormatInt(in, 10)+"\n"...)
	return append(b, "out="+strconv.FormatInt(out, 10)+"\n"...), nil
}

// convCtl is a fid on ctl: it reads as the conversation's name.
type convCtl struct {
	c    *conversation
	rest rest // for the reads, which come one at a time
}

func (f *convCtl) read(_ context.Context, p []byte) (int, error) {
	if len(f.rest) == 0 {
		return 0, io.EOF
	}
	return f.rest.take(p), nil
}

func (f *convCtl) write(ctx context.Context, p []byte) (int, error) {
	for line := range strings.Lines(string(p)) {
		if err := f.c.command(ctx, strings.TrimSuffix(line, "\n")); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func (f *convCtl) close() { f.c.close() }

// convData is a fid on data.
type convData struct {
	c *conversation
	s *vsockStream
}

func (f *convData) read(ctx context.Context, p []byte) (int, error)  { return f.s.read(ctx, p) }
func (f *convData) write(ctx context.Context, p []byte) (int, error) { return f.s.write(ctx, p) }
func (f *convData) close()                                           { f.c.close() }
func (f *convData) bytes()                                           {}
