package sim

import (
	"bytes"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// streamRoom is how much each direction of a stream holds.
const streamRoom = 64 << 10

// stream is the host's end of a vsock stream. The guest's end is its service,
// which runs within the calls that give it something to do.
type stream struct {
	vm    *VM
	port  int
	serve service
	cond  sync.Cond // of vm.mu

	// vm.mu guards all below.
	in        bytes.Buffer // from the host, not yet read by the guest
	out       bytes.Buffer // from the guest, not yet read by the host
	hostEnded bool         // the host has half-closed
	ended     bool         // the guest has half-closed
	broken    bool         // the guest is gone
	closed    bool
	lines     int // of chargen
	readBy    deadline
	writeBy   deadline
}

var (
	_ net.Conn                        = (*stream)(nil)
	_ interface{ CloseWrite() error } = (*stream)(nil)
)

func newStream(vm *VM, port int, serve service) *stream {
	s := &stream{vm: vm, port: port, serve: serve}
	s.cond.L = &vm.mu
	return s
}

// move lets the guest serve, if it runs. vm.mu is held.
func (s *stream) move() {
	if s.vm.guestRuns() && !s.broken {
		s.serve(s)
		s.cond.Broadcast()
	}
}

// Read returns what the guest sent, and io.EOF when it has ended or is gone.
func (s *stream) Read(p []byte) (int, error) {
	s.vm.mu.Lock()
	defer s.vm.mu.Unlock()
	for {
		switch {
		case s.closed:
			return 0, s.err("read", net.ErrClosed)
		case s.readBy.passed():
			return 0, s.err("read", os.ErrDeadlineExceeded)
		case len(p) == 0:
			return 0, nil
		case s.out.Len() > 0:
			n, _ := s.out.Read(p) // never fails with bytes there
			s.move()
			return n, nil
		case s.ended:
			return 0, io.EOF
		}
		s.cond.Wait()
	}
}

// Write sends p to the guest, and waits while it does not read.
func (s *stream) Write(p []byte) (int, error) {
	s.vm.mu.Lock()
	defer s.vm.mu.Unlock()
	written := 0
	for written < len(p) {
		room := streamRoom - s.in.Len()
		switch {
		case s.closed:
			return written, s.err("write", net.ErrClosed)
		case s.hostEnded || s.broken:
			return written, s.err("write", syscall.EPIPE)
		case s.writeBy.passed():
			return written, s.err("write", os.ErrDeadlineExceeded)
		case room > 0:
			n := min(room, len(p)-written)
			s.in.Write(p[written : written+n])
			written += n
			s.move()
		default:
			s.cond.Wait()
		}
	}
	return written, nil
}

// CloseWrite tells the guest that no more is coming.
func (s *stream) CloseWrite() error {
	s.vm.mu.Lock()
	defer s.vm.mu.Unlock()
	if s.closed {
		return s.err("close", net.ErrClosed)
	}
	s.hostEnded = true
	s.move()
	s.cond.Broadcast()
	return nil
}

// Close ends the stream both ways.
func (s *stream) Close() error {
	s.vm.mu.Lock()
	defer s.vm.mu.Unlock()
	if s.closed {
		return s.err("close", net.ErrClosed)
	}
	s.close()
	return nil
}

// close is Close with vm.mu held.
func (s *stream) close() {
	s.closed = true
	delete(s.vm.streams, s)
	s.in, s.out = bytes.Buffer{}, bytes.Buffer{}
	s.readBy.set(s, time.Time{})
	s.writeBy.set(s, time.Time{})
	s.cond.Broadcast()
}

// LocalAddr is the host's end.
func (s *stream) LocalAddr() net.Addr { return vsockAddr{cid: 2} }

// RemoteAddr is the guest's end.
func (s *stream) RemoteAddr() net.Addr { return vsockAddr{s.vm.config.VsockCID, s.port} }

// SetDeadline sets both deadlines.
func (s *stream) SetDeadline(t time.Time) error { return s.setDeadlines(t, &s.readBy, &s.writeBy) }

// SetReadDeadline sets when Read gives up.
func (s *stream) SetReadDeadline(t time.Time) error { return s.setDeadlines(t, &s.readBy) }

// SetWriteDeadline sets when Write gives up.
func (s *stream) SetWriteDeadline(t time.Time) error { return s.setDeadlines(t, &s.writeBy) }

func (s *stream) setDeadlines(t time.Time, ds ...*deadline) error {
	s.vm.mu.Lock()
	defer s.vm.mu.Unlock()
	if s.closed {
		return s.err("set deadline", net.ErrClosed)
	}
	for _, d := range ds {
		d.set(s, t)
	}
	return nil
}

func (s *stream) err(op string, err error) error {
	return &net.OpError{Op: op, Net: "vsock", Source: s.LocalAddr(), Addr: s.RemoteAddr(), Err: err}
}

// deadline is a time at which a blocked call gives up; the zero time is never.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

// set sets the time and wakes s when it comes. vm.mu is held.
func (d *deadline) set(s *stream, at time.Time) {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.at = at
	if !at.IsZero() {
		d.timer = time.AfterFunc(time.Until(at), func() {
			s.vm.mu.Lock()
			defer s.vm.mu.Unlock()
			s.cond.Broadcast()
		})
	}
	s.cond.Broadcast()
}
