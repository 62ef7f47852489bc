package client

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/hugelgupf/p9/linux"

	"vmfs/internal/wait"
	"vmfs/ninep/wire"
)

// flushWait is how long a call whose context has ended waits for the answer to its
// Tflush. A server that is well answers at once.
const flushWait = 2 * time.Second

// ErrLost is the error of a call whose connection has ended.
var ErrLost = errors.New("connection to the server lost")

// errProtocol is the error of a server that does not keep to 9P.
var errProtocol = errors.New("the server broke the protocol")

// A conn carries requests and replies, many at once.
type conn struct {
	net    net.Conn
	msize  uint32
	ctx    context.Context // ends with the connection
	cancel context.CancelFunc
	wg     sync.WaitGroup // the reader, and the clunks that nobody waits for

	// sending holds a token for who writes. It is taken before mu.
	sending chan struct{}
	out     wire.Codec // used with the token
	buf     []byte     // used with the token

	mu      sync.Mutex // guards the fields below, and those of pending
	pending map[uint16]*pending
	tags    []uint16 // free ones
	nextTag uint16
	fids    []uint32 // free ones
	nextFid uint32
	err     error // why the connection ended
}

// A pending is a request without an answer.
type pending struct {
	tag  uint16
	want wire.Type
	m    *wire.Msg     // the reply's place
	into []byte        // the place of its data
	done chan struct{} // closed when err and m are what the server said

	err   error
	state pendingState
	late  func() // run if it succeeds when it is abandoned
}

// A pendingState says who cares for a request. It begins as awaited, and nothing goes
// back.
type pendingState int

const (
	awaited   pendingState = iota // its call waits; the answer frees its tag
	flushing                      // its call waits, with a Tflush on the way; who sent that frees its tag
	abandoned                     // its call has returned: nobody looks at m; the tag as above
)

func newConn(c net.Conn, msize uint32) *conn {
	n := &conn{
		net: c, msize: msize,
		sending: make(chan struct{}, 1),
		pending: make(map[uint16]*pending),
		out:     wire.Codec{Dialect: wire.Linux},
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.wg.Go(func() { n.end(n.receive()) })
	return n
}

// close ends the connection and every call on it.
func (n *conn) close() {
	n.end(net.ErrClosed)
	n.wg.Wait()
}

// end fails all calls, those to come too. The first error stays.
func (n *conn) end(err error) {
	n.cancel()
	n.net.Close()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.err == nil {
		// Not wrapped: to who reads a file, an io.EOF would be the file's.
		n.err = fmt.Errorf("%w: %v", ErrLost, rootCause(err))
		if errors.Is(err, io.EOF) {
			n.err = fmt.Errorf("%w: it hung up", ErrLost)
		}
	}
	for tag, p := range n.pending {
		delete(n.pending, tag)
		p.err = n.err
		close(p.done)
	}
}

// receive takes replies until there are no more, and returns why.
func (n *conn) receive() error {
	r := bufio.NewReaderSize(n.net, 4<<10)
	in := wire.Codec{Dialect: wire.Linux}
	var frame []byte
	var m wire.Msg
	for {
		head, err := r.Peek(4)
		if err != nil {
			return err
		}
		size := binary.LittleEndian.Uint32(head)
		if size < wire.HeaderSize || size > n.size() {
			return fmt.Errorf("%w: a message of %d bytes", errProtocol, size)
		}
		frame = slices.Grow(frame[:0], int(size))[:size]
		if _, err := io.ReadFull(r, frame); err != nil {
			return err
		}
		if err := in.Decode(frame, &m); err != nil {
			return fmt.Errorf("%w: %w", errProtocol, err)
		}
		if err := n.answer(&m); err != nil {
			return err
		}
		if r.Buffered() == 0 {
			runtime.Gosched() // who waited goes on before the next read, which finds nothing mostly
		}
	}
}

func (n *conn) size() uint32 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.msize
}

// answer gives a reply to who waits for it.
func (n *conn) answer(m *wire.Msg) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.pending[m.Tag]
	switch {
	case p == nil:
		return fmt.Errorf("%w: a reply that nothing was asked for", errProtocol)
	case m.Type != p.want && m.Type != wire.Rlerror, len(m.Data) > len(p.into):
		return fmt.Errorf("%w: a reply of type %d to a request of type %d", errProtocol, m.Type, p.want-1)
	}
	delete(n.pending, p.tag)
	if p.state == awaited {
		n.freeTag(p.tag)
	}
	switch {
	case m.Type == wire.Rlerror:
		p.err = &Error{Errno: linux.Errno(m.Errno)}
	case p.state == abandoned:
		if p.late != nil {
			n.wg.Go(p.late)
		}
	default:
		size := copy(p.into, m.Data)
		*p.m = *m
		p.m.Data, p.m.QIDs, p.m.Names = p.into[:size], slices.Clone(m.QIDs), nil
	}
	close(p.done)
	return nil
}

// call sends m as a request of type t and makes it the reply. Data is read into
// into. If the call is given up and turns out to have succeeded, late is run, if
// there is one.
func (n *conn) call(ctx context.Context, t wire.Type, m *wire.Msg, into []byte, late func()) error {
	p := &pending{want: t + 1, m: m, into: into, late: late, done: make(chan struct{})}
	if err := n.send(ctx, t, p); err != nil {
		return err
	}
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return n.flush(ctx, p)
	}
}

// send registers a request and writes it.
func (n *conn) send(ctx context.Context, t wire.Type, p *pending) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	select {
	case n.sending <- struct{}{}:
		defer func() { <-n.sending }()
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-n.ctx.Done():
		return n.failure()
	}
	if err := n.register(p); err != nil {
		return err
	}
	p.m.Tag = p.tag
	n.buf = n.out.Append(n.buf[:0], t, p.m)
	// A server that takes nothing holds a write up for ever.
	stop := wait.Interrupt(ctx, func() { n.net.SetWriteDeadline(time.Now()) })
	written, err := n.net.Write(n.buf)
	if stop() {
		n.net.SetWriteDeadline(time.Time{})
	}
	if err == nil {
		return nil // that ctx has ended is noticed by who waits for the answer
	}
	n.forget(p)
	if written > 0 || ctx.Err() == nil {
		n.end(err) // half a message is the end
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return n.failure()
}

// failure returns why the connection has ended.
func (n *conn) failure() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.err
}

// register gives the request a tag.
func (n *conn) register(p *pending) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.err != nil {
		return n.err
	}
	switch last := len(n.tags) - 1; {
	case p.want == wire.Rversion:
		p.tag = wire.NoTag
	case last >= 0:
		p.tag, n.tags = n.tags[last], n.tags[:last]
	case n.nextTag == wire.NoTag:
		return errors.New("too many requests at once on one connection")
	default:
		p.tag = n.nextTag
		n.nextTag++
	}
	n.pending[p.tag] = p
	return nil
}

// forget takes a request back that the server never saw.
func (n *conn) forget(p *pending) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.pending[p.tag] == p {
		delete(n.pending, p.tag)
		n.freeTag(p.tag)
	}
}

// freeTag makes a tag another request's. The caller holds mu.
func (n *conn) freeTag(tag uint16) {
	if tag != wire.NoTag { // Tversion's
		n.tags = append(n.tags, tag)
	}
}

// flush has the server give a request up. The answer that came first counts.
func (n *conn) flush(ctx context.Context, p *pending) error {
	if !n.advance(p, flushing) {
		return p.outcome(ctx)
	}
	within, cancel := context.WithTimeout(n.ctx, flushWait)
	defer cancel()
	f := &pending{want: wire.Rflush, m: &wire.Msg{Count: uint32(p.tag)}, done: make(chan struct{})}
	last := p // the request whose answer is the last that has to do with p's tag
	if err := n.send(within, wire.Tflush, f); err == nil {
		last = f
		select {
		case <-f.done:
			n.flushed(p)
			return p.outcome(ctx)
		case <-within.Done():
		}
	}
	// The server does not even flush. The tags stay taken until it does.
	unanswered := n.advance(p, abandoned)
	n.spawn(func() {
		<-last.done
		n.flushed(p)
	})
	if !unanswered {
		return p.outcome(ctx)
	}
	return context.Cause(ctx)
}

// advance changes the state of a request that has no answer yet. It returns false if
// it has one.
func (n *conn) advance(p *pending, to pendingState) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.pending[p.tag] != p {
		return false
	}
	p.state = to
	return true
}

// flushed notes that the server is done with a request, whether or not it answered.
func (n *conn) flushed(p *pending) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.pending, p.tag)
	n.freeTag(p.tag)
}

// outcome is the result of a call whose context has ended: the answer, if one came
// that does not just say that it was given up.
func (p *pending) outcome(ctx context.Context) error {
	select {
	case <-p.done:
		var e *Error
		if errors.As(p.err, &e) && e.Errno == linux.EINTR {
			return context.Cause(ctx)
		}
		return p.err
	default:
		return context.Cause(ctx)
	}
}

// newFid returns a fid that is free.
func (n *conn) newFid() uint32 {
	n.mu.Lock()
	defer n.mu.Unlock()
	if last := len(n.fids) - 1; last >= 0 {
		fid := n.fids[last]
		n.fids = n.fids[:last]
		return fid
	}
	n.nextFid++
	return n.nextFid - 1
}

func (n *conn) freeFid(fid uint32) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fids = append(n.fids, fid)
}

// clunk gives a fid back. Whatever the server says, it is gone there (clunk(5)), but
// a call that was given up may not have reached it: then its number is not used again.
// Where ctx has ended already, nobody waits for the answer.
func (n *conn) clunk(ctx context.Context, fid uint32) error {
	if ctx.Err() != nil {
		n.spawn(func() { _ = n.clunk(n.ctx, fid) })
		return context.Cause(ctx)
	}
	err := n.call(ctx, wire.Tclunk, &wire.Msg{Fid: fid}, nil, nil)
	var said *Error
	if err == nil || errors.As(err, &said) {
		n.freeFid(fid)
	}
	return err
}

// spawn runs f, which the end of the connection ends, unless it has ended.
func (n *conn) spawn(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.err == nil {
		n.wg.Go(f)
	}
}
