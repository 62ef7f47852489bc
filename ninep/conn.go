package ninep

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"

	"vmfs/ninep/wire"
)

// conn is one connection. One goroutine reads its requests and answers those
// that cannot block; see session for what it keeps.
type conn struct {
	srv    *Server
	nc     net.Conn
	ln     net.Listener // that accepted it; nil for none
	caller *caller
	user   string // whom the limits count it for
	share  *userShare
	log    *slog.Logger

	sess  atomic.Pointer[session] // nil before the first Tversion
	waits atomic.Int64            // since when it waits for the next message, as Server.now; 0 if it does not
	out   output

	mu         sync.Mutex // guards what follows
	draining   bool       // Shutdown wants it to end; deadlines are left alone
	complained int        // faults of the client since the connection began

	// Of the reading goroutine.
	in        *buf // what was read; in.b[pos:] is not handled yet
	pos       int
	inHeld    int  // what counts as held of in
	replies   *buf // not handed to out yet
	req       request
	codec     wire.Codec
	one       [1]string
	attr      p9.Attr // of replies, as the two that follow
	fsstat    p9.FSStat
	stat      wire.Stat
	turn      bool // it is its turn, see turns
	turnBegan time.Duration
	turnBegun chan struct{}
	timed     bool      // a read deadline is set
	armed     time.Time // when it was
	whole     bool      // a message was completed since
	began     int       // requests begun in goroutines of their own since the last read
}

func makeConn(s *Server, nc net.Conn, cl *caller) *conn {
	c := &conn{srv: s, nc: nc, caller: cl, user: cl.countedFor(), log: s.log, turnBegun: make(chan struct{}, 1)}
	c.log = s.log.With("listener", cl.listener, "peer", peerName(cl))
	c.codec.Dialect = wire.Plan9 // until there is a session
	c.out.init(nc, s.limits.Write, c.writeFailed)
	return c
}

// The ways a connection ends that are the client's fault.
var (
	errFrameSize = errors.New("message too short or too long")
	errSlowFrame = errors.New("the client left a message unfinished for too long")
	errNoHello   = errors.New("the client sent no Tversion in time")
	errNoReader  = errors.New("the client does not read its replies")
)

// serve reads requests until there are no more, and puts everything away.
func (c *conn) serve(ctx context.Context) error {
	defer c.srv.dropConn(c)
	stop := context.AfterFunc(ctx, c.cut)
	defer stop()
	c.log.Debug("connected")
	began := time.Now()

	c.setReadDeadline(c.srv.limits.Handshake)
	err := c.readAll()
	c.endTurn()
	c.giveBack()

	draining := c.isDraining()
	switch {
	case draining, errors.Is(err, io.EOF):
		err = nil
	case ctx.Err() != nil:
		err = ctx.Err()
	case c.out.failure() != nil:
		err = c.out.failure()
	case errors.Is(err, errFrameSize), errors.Is(err, errSlowFrame), errors.Is(err, errNoHello):
		c.log.Warn("hanging up", "err", err)
	}
	if s := c.sess.Load(); s != nil {
		if draining {
			s.end(errStopping, true)
		} else {
			s.end(errHangup, false)
		}
	}
	c.out.flush()
	c.nc.Close()
	c.mu.Lock()
	faults := c.complained
	c.mu.Unlock()
	c.log.Debug("disconnected", "after", time.Since(began).Round(time.Millisecond), "faults", faults, "err", err)
	return err
}

// giveBack returns the buffers.
func (c *conn) giveBack() {
	c.hand()
	c.in.free()
	c.in = nil
	c.share.letGo(c.inHeld)
	c.inHeld = 0
}

// readAll handles messages until reading fails.
func (c *conn) readAll() error {
	for {
		frame, err := c.frame()
		if err != nil {
			return err
		}
		c.beginTurn()
		c.handle(frame)
	}
}

// frame gives the next message; its bytes are good until the next call.
func (c *conn) frame() ([]byte, error) {
	for {
		have := 0
		if c.in != nil {
			have = len(c.in.b) - c.pos
		}
		need := 4
		if have >= 4 {
			size := binary.LittleEndian.Uint32(c.in.b[c.pos:])
			if limit := c.msize(); size < wire.HeaderSize || size > limit {
				return nil, fmt.Errorf("%w: %d bytes, want %d to %d", errFrameSize, size, wire.HeaderSize, limit)
			}
			need = int(size)
			if have >= need {
				frame := c.in.b[c.pos : c.pos+need : c.pos+need]
				c.pos += need
				c.whole = true
				return frame, nil
			}
			switch {
			case need <= smallHeld || need <= cap(c.in.b):
			case have < wire.HeaderSize:
				need = wire.HeaderSize
			case !c.holdMessage(need):
				if err := c.skip(need - have); err != nil {
					return nil, err
				}
				continue
			}
		}
		if err := c.fill(have, need); err != nil {
			return nil, err
		}
	}
}

// holdMessage counts the room for a message, if there is any.
func (c *conn) holdMessage(size int) bool {
	if !c.share.hold(bufCost(size) - c.inHeld) {
		return false
	}
	c.inHeld = bufCost(size)
	return true
}

// skip refuses a message for which there is no room, and reads past what is left of it.
func (c *conn) skip(left int) error {
	r := &c.req
	r.Type, r.Tag = wire.Header(c.in.b[c.pos:])
	r.s = c.sess.Load()
	c.complain(errRequests.Error(), "request", r.Type, "bytes", left)
	c.replyError(r, errRequests)
	c.endTurn()
	c.hand()
	c.out.wait()
	c.setReadDeadline(c.srv.limits.Frame)
	c.pos, c.in.b, c.whole = 0, c.in.b[:0], true
	for left > 0 {
		n, err := c.nc.Read(c.in.b[:min(left, cap(c.in.b))])
		if left -= n; n == 0 && err != nil {
			return c.readFailed(err, left)
		}
	}
	return nil
}

func (c *conn) msize() uint32 {
	if s := c.sess.Load(); s != nil {
		return s.msize
	}
	return min(c.srv.limits.Msize, 8<<10) // a Tversion is short
}

// fill reads more, after sending what there is to be sent. have bytes of the
// next message are there, and it needs that many.
func (c *conn) fill(have, need int) error {
	c.endTurn()
	c.hand()
	if c.began == 1 {
		runtime.Gosched() // the client may wait for that, and there is nothing to read then
	}
	c.began = 0
	c.out.wait()
	switch {
	case have > 0 && (!c.timed || c.whole && time.Since(c.armed) > c.srv.limits.Frame/4):
		// A busy client's reads may end within a message every time, so the
		// time starts again now and then as long as messages get done.
		c.setReadDeadline(c.srv.limits.Frame)
		c.whole = false
	case have == 0 && c.timed && c.sess.Load() != nil:
		c.setReadDeadline(0)
	}
	// While nothing is under way a small buffer waits for the next request.
	switch {
	case c.in == nil:
		c.in = getBuf(need)
	case have == 0:
		if cap(c.in.b) > bufSizes[0] {
			c.in.free()
			c.in = getBuf(need)
			c.share.letGo(c.inHeld)
			c.inHeld = 0
		}
		c.in.b = c.in.b[:0]
	case need > cap(c.in.b):
		nb := getBuf(need)
		nb.b = append(nb.b, c.in.b[c.pos:]...)
		c.in.free()
		c.in = nb
	case c.pos > 0:
		n := copy(c.in.b[:have], c.in.b[c.pos:])
		c.in.b = c.in.b[:n]
	}
	c.pos = 0
	if have == 0 {
		c.waits.Store(int64(c.srv.now()))
	}
	n, err := c.nc.Read(c.in.b[len(c.in.b):cap(c.in.b)])
	c.waits.Store(0)
	c.in.b = c.in.b[:len(c.in.b)+n]
	if n > 0 || err == nil {
		return nil
	}
	return c.readFailed(err, have)
}

// readFailed says what ends a connection of which nothing can be read any more, with so
// many bytes of a message there.
func (c *conn) readFailed(err error, have int) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded) && !c.isDraining():
		if c.sess.Load() == nil {
			return errNoHello
		}
		return errSlowFrame
	case errors.Is(err, io.EOF) && have > 0:
		return io.ErrUnexpectedEOF
	}
	return err
}

// setReadDeadline bounds the reading of what has begun; 0 is no bound.
func (c *conn) setReadDeadline(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.draining {
		return
	}
	c.timed = d > 0
	var t time.Time
	if d > 0 {
		c.armed = time.Now()
		t = c.armed.Add(d)
	}
	_ = c.nc.SetReadDeadline(t)
}

// drain makes the connection end as soon as what is in flight is answered.
func (c *conn) drain() {
	c.mu.Lock()
	c.draining = true
	_ = c.nc.SetReadDeadline(time.Unix(1, 0))
	c.mu.Unlock()
	if s := c.sess.Load(); s != nil {
		s.cancel(errStopping)
	}
}

func (c *conn) isDraining() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.draining
}

// cut ends the connection without further ado.
func (c *conn) cut() { _ = c.nc.Close() }

// writeFailed ends a connection that replies cannot be written to.
func (c *conn) writeFailed(err error) {
	if errors.Is(err, errNoReader) {
		c.log.Warn("hanging up", "err", errNoReader, "limit", c.srv.limits.Write)
	}
	c.cut()
}

// complain logs what a client does wrong. The first time it is a warning, so
// that a client that does nothing else cannot fill the log.
func (c *conn) complain(msg string, args ...any) {
	c.mu.Lock()
	c.complained++
	first := c.complained == 1
	c.mu.Unlock()
	if first {
		c.log.Warn(msg, args...)
		return
	}
	c.log.Debug(msg, args...)
}

// room gives the buffer of replies with space for n more bytes.
func (c *conn) room(n int) *buf {
	switch {
	case c.replies == nil:
		c.replies = getBuf(max(n, bufSizes[1]))
	case cap(c.replies.b)-len(c.replies.b) >= n:
	case len(c.replies.b)+n <= bufSizes[2]:
		c.replies = c.replies.grow(n)
	default:
		c.endTurn()
		c.hand()
		c.out.wait() // what came in one read can ask for more than may pile up
		c.replies = getBuf(n)
	}
	return c.replies
}

// hand gives the replies to out.
func (c *conn) hand() {
	b := c.replies
	if b == nil {
		return
	}
	c.replies = nil
	if len(b.b) == 0 {
		b.free()
		return
	}
	if c.out.add(b) {
		c.out.write(b)
	}
}

// handle carries out one message.
func (c *conn) handle(frame []byte) {
	s := c.sess.Load()
	r := &c.req
	if t, tag := wire.Header(frame); t == wire.Tversion || s == nil {
		r.Type, r.Tag, r.s = t, tag, s
		if t == wire.Tversion {
			c.version(r, frame)
			return
		}
		c.complain("request before Tversion", "type", t)
		c.replyError(r, errNoVersion)
		return
	}
	if err := s.handle(r, frame); err != nil && err != errLater && err != errReplied {
		c.replyError(r, err)
	}
}

// reply writes the results of a request that the reading goroutine answers.
func (c *conn) reply(r *request) {
	b := c.room(512)
	b.b = r.appendReply(&c.codec, b.b, nil)
}

func (c *conn) replyError(r *request, err error) {
	b := c.room(512)
	b.b = r.s.appendError(&c.codec, b.b, &r.Msg, err)
}

// version answers a Tversion. It ends the session there was, and begins
// another if the client's version is one we know.
func (c *conn) version(r *request, frame []byte) {
	err := c.codec.Decode(frame, &r.Msg)
	old := c.sess.Load()
	r.s = old
	if err != nil {
		c.complain("malformed message", "type", "Tversion")
		c.replyError(r, fault(linux.EBADMSG, "malformed Tversion"))
		return
	}
	if old != nil {
		c.endTurn()
		c.hand() // what was answered before stays answered
		old.end(errReset, false)
		c.sess.Store(nil)
		c.codec.Dialect = wire.Plan9
		r.s = nil
		c.setReadDeadline(c.srv.limits.Handshake)
	}
	dialect, answer, ok := wire.Negotiate(r.Name)
	msize := min(r.Count, c.srv.limits.Msize)
	if ok && msize < minMsize {
		c.complain("message size too small", "msize", msize)
		r.s = &session{dialect: dialect, msize: minMsize} // for the form of the error alone
		c.codec.Dialect = dialect
		c.replyError(r, errMsize)
		r.s, c.codec.Dialect = nil, wire.Plan9
		return
	}
	if ok {
		s := newSession(c, dialect, msize)
		c.codec.Dialect = dialect
		c.sess.Store(s)
		if c.isDraining() {
			s.cancel(errStopping)
		}
		c.setReadDeadline(0)
		c.log.Debug("session", "version", answer, "msize", msize)
	} else {
		c.complain("unknown version", "version", r.Name)
	}
	r.Count, r.Name = msize, answer
	b := c.room(64)
	b.b = c.codec.Append(b.b, wire.Rversion, &r.Msg)
}
