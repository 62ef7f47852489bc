package streams

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"vmfs/internal/wait"
	"vmfs/machine"
)

const (
	// defaultLinger is how long a stream is kept after it was closed: longer than a guest that is busy
	// takes to read what is under way to it.
	defaultLinger = 30 * time.Second
	// lastWords is how long a read waits for more from a guest that is gone: what it
	// sent before is in a socket already, or in a device that is about to hang up.
	lastWords = 200 * time.Millisecond
)

// past is a deadline that wakes what is blocked.
var past = time.Unix(1, 0)

// A Conn is one stream to or from a guest. Reads of it come one after the
// other, and so do writes, whichever fids they come by.
type Conn struct {
	v       *Guests
	vm      *machine.VM
	port    uint32
	conn    net.Conn
	began   time.Time
	release func() // what else to give up with it

	rd, wr         chan struct{} // hold a token while nobody reads or writes
	received, sent atomic.Int64  // bytes from the guest, and to it

	mu         sync.Mutex // guards what follows; held while a deadline is set
	lost       error      // why the guest is gone
	in         input
	wrote      bool
	halfClosed bool // we have ended our side
	life       life
}

// input is what becomes of what the guest sends.
type input int

const (
	inRead    input = iota // it is for those who read
	inDropped              // a goroutine reads and drops it
	inEnded                // the guest has ended its side
)

// life is how far a stream is from its end.
type life int

const (
	lifeOpen    life = iota
	lifeClosing      // nobody has it open any more, and it still delivers
	lifeEnded        // its connection is closed
)

func newConn(v *Guests, vm *machine.VM, port uint32, conn net.Conn, began time.Time, release func()) *Conn {
	s := &Conn{v: v, vm: vm, port: port, conn: conn, began: began, release: release, rd: make(chan struct{}, 1), wr: make(chan struct{}, 1)}
	s.rd <- struct{}{}
	s.wr <- struct{}{}
	return s
}

func take(ctx context.Context, token chan struct{}) error {
	select {
	case <-token:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// interruptible lets the end of ctx wake a call that obeys the deadline which set
// sets. The function returned ends that.
func interruptible(ctx context.Context, set func(time.Time) error) (stop func() bool) {
	return wait.Interrupt(ctx, func() { _ = set(past) }) // fails when closed, which wakes as well
}

// Read waits for bytes from the guest and delivers those that are there.
func (s *Conn) Read(ctx context.Context, p []byte) (int, error) {
	if err := take(ctx, s.rd); err != nil {
		return 0, err
	}
	defer func() { s.rd <- struct{}{} }()
	for {
		s.readDeadline()
		stop := interruptible(ctx, s.conn.SetReadDeadline)
		n, err := s.conn.Read(p)
		stop()
		s.received.Add(int64(n))
		switch {
		case n > 0 || err == nil:
			return n, nil
		case errors.Is(err, io.EOF):
			s.mu.Lock()
			s.in = inEnded
			s.mu.Unlock()
			return 0, io.EOF
		case ctx.Err() != nil:
			return 0, ctx.Err()
		case errors.Is(err, net.ErrClosed):
			return 0, io.EOF // by hangup, or with the tree
		case errors.Is(err, os.ErrDeadlineExceeded):
			s.mu.Lock()
			lost := s.lost
			s.mu.Unlock()
			if lost != nil {
				return 0, lost
			}
		default:
			return 0, s.wrap(err)
		}
	}
}

// readDeadline is what a new read has to obey.
func (s *Conn) readDeadline() {
	s.mu.Lock()
	defer s.mu.Unlock()
	var at time.Time
	if s.lost != nil {
		at = time.Now().Add(lastWords)
	}
	_ = s.conn.SetReadDeadline(at) // fails when closed, as the read will
}

// Write sends p to the guest, and waits while that does not take it. Cancelled, it
// returns how much was taken.
func (s *Conn) Write(ctx context.Context, p []byte) (int, error) {
	if err := take(ctx, s.wr); err != nil {
		return 0, err
	}
	defer func() { s.wr <- struct{}{} }()
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if err := s.writeDeadline(); err != nil {
			return 0, err
		}
		stop := interruptible(ctx, s.conn.SetWriteDeadline)
		n, err := s.conn.Write(p)
		stop()
		if n > 0 {
			s.sent.Add(int64(n))
			s.mu.Lock()
			s.wrote = true
			s.mu.Unlock()
			return n, nil // what went wrong is the next one's error, if it lasts
		}
		switch {
		case ctx.Err() != nil:
			return 0, ctx.Err()
		case errors.Is(err, net.ErrClosed):
			return 0, s.wrap(syscall.EPIPE)
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return 0, s.wrap(err)
		}
	}
}

// writeDeadline is what a new write has to obey, or why there can be none.
func (s *Conn) writeDeadline() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.lost != nil:
		return s.lost
	case s.halfClosed, s.life == lifeEnded:
		return s.wrap(syscall.EPIPE)
	}
	_ = s.conn.SetWriteDeadline(time.Time{}) // fails when closed, as the write will
	return nil
}

func (s *Conn) wrap(err error) error {
	return fmt.Errorf("vsock %s: port %d: %w", s.vm.Name(), s.port, err)
}

// shutdown ends our side once the writes under way are done: the guest reads to
// the end of file. Reading goes on.
func (s *Conn) shutdown(ctx context.Context) error {
	if err := take(ctx, s.wr); err != nil {
		return err
	}
	defer func() { s.wr <- struct{}{} }()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost != nil {
		return s.lost
	}
	return s.halfClose()
}

// halfClose is shutdown for who holds mu.
func (s *Conn) halfClose() error {
	if s.halfClosed || s.life == lifeEnded {
		return nil
	}
	s.halfClosed = true
	if c, ok := s.conn.(interface{ CloseWrite() error }); ok {
		if err := c.CloseWrite(); err != nil && !errors.Is(err, syscall.ENOTCONN) {
			return s.wrap(err)
		}
	}
	return nil
}

// lose ends a stream that is older than the time at which its guest was gone. What
// the guest sent before can still be read. It tells whether that is news.
func (s *Conn) lose(gone time.Time, why string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.began.Before(gone) || s.lost != nil || s.life == lifeEnded {
		return false
	}
	s.lost = s.wrap(fmt.Errorf("%w: %s", syscall.ECONNRESET, why))
	// Both fail only when closed.
	_ = s.conn.SetReadDeadline(time.Now().Add(lastWords))
	_ = s.conn.SetWriteDeadline(past)
	return s.in != inEnded && s.life == lifeOpen
}

// Close gives the stream up. What was written is delivered: the stream ends our
// side, and is kept, without anybody to read it, until the guest has ended its own
// or the time for that is over.
func (s *Conn) Close() {
	s.mu.Lock()
	if s.life != lifeOpen {
		s.mu.Unlock()
		return
	}
	s.life = lifeClosing
	if !s.wrote || s.lost != nil {
		s.mu.Unlock()
		s.end()
		return
	}
	err := s.halfClose()
	done := err != nil || s.in == inEnded
	if !done {
		_ = s.conn.SetReadDeadline(time.Now().Add(s.v.linger)) // fails when closed, as the reads will
	}
	s.mu.Unlock()
	if done {
		s.end()
		return
	}
	s.Discard()
}

// Discard has what comes from the guest read and dropped from now on: a guest that
// answers would wait for a reader, and then stop reading itself.
func (s *Conn) Discard() {
	s.mu.Lock()
	begin := s.in == inRead && s.life != lifeEnded
	if begin {
		s.in = inDropped
	}
	s.mu.Unlock()
	if begin && !s.v.spawn(s.drain) {
		s.end()
	}
}

func (s *Conn) drain() {
	n, _ := io.Copy(io.Discard, s.conn) // any error is the end of it
	s.received.Add(n)
	s.mu.Lock()
	s.in = inEnded
	closing := s.life == lifeClosing
	s.mu.Unlock()
	if closing {
		s.end()
	}
}

// Bytes marks a stream of bytes, which can be written in parts of any size.
func (s *Conn) Bytes() {}

// end closes the stream at once, both ways.
func (s *Conn) end() {
	s.mu.Lock()
	if s.life == lifeEnded {
		s.mu.Unlock()
		return
	}
	s.life = lifeEnded
	s.mu.Unlock()
	_ = s.conn.Close() // nothing is to be made of an error
	s.v.remove(s)
	if s.release != nil {
		s.release()
	}
}

// alive reports whether bytes can still go either way.
func (s *Conn) alive() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost == nil && s.life != lifeEnded && !(s.in == inEnded && s.halfClosed)
}
