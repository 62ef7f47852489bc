package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"vmfs/backends/hypervisor"
)

const (
	// trimEvery is how often the size of a console's log is looked at.
	trimEvery = 5 * time.Second
	// drainFirst and drainMost are how often it is asked whether a guest has taken
	// what was typed.
	drainFirst = time.Millisecond
	drainMost  = 200 * time.Millisecond
)

// pump carries what is typed at the console, and bounds its log, for as long as
// ctx lasts. It connects when somebody has something to write, and for no longer
// than it takes: readers have the log, and a guest must not wait for this server to
// read what it prints, as it would where the connection is full.
func (s *session) pump(ctx context.Context, hv hypervisor.Hypervisor) {
	c, ok := hv.(hypervisor.Console)
	if !ok {
		return
	}
	tick := time.NewTicker(trimEvery)
	defer tick.Stop()
	for {
		s.trimConsole()
		select {
		case <-s.typing:
			s.connectConsole(ctx, c)
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (s *session) trimConsole() {
	if err := s.v.console.trim(); err != nil {
		s.v.host.log.Warn("console log not trimmed", "vm", s.v.name, "err", err)
	}
}

// connectConsole connects to the console, for which it tries until nobody wants it
// any more, and returns when that connection has ended.
func (s *session) connectConsole(ctx context.Context, c hypervisor.Console) {
	v := s.v
	var told bool
	for wait := retryFirst; s.typed(); wait = min(2*wait, retryMost) {
		rw, err := c.OpenConsole(ctx)
		if err == nil {
			if err = s.drainConsole(ctx, rw); err == nil {
				return
			}
		}
		if ctx.Err() != nil {
			return
		}
		if !told && !notRunning(err) {
			told = true
			v.host.log.Warn("console not connected, trying again", "vm", v.name, "err", err)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// typed reports whether somebody wants to write to the console.
func (s *session) typed() bool {
	s.v.mu.Lock()
	defer s.v.mu.Unlock()
	return s.typists > 0
}

// drainConsole makes rw the console's connection, and reads its output until it
// ends, which is no error, or ctx does.
func (s *session) drainConsole(ctx context.Context, rw io.ReadWriteCloser) error {
	v := s.v
	conn := &consoleConn{rw: rw, turn: make(chan struct{}, 1), gone: make(chan struct{}), left: make(chan struct{}, 1)}
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		rw.Close()
	})
	v.update(func() { s.console = conn })
	var hung sync.WaitGroup
	if d, ok := rw.(hypervisor.Drainer); ok {
		hung.Go(func() { s.hangUp(conn, d) })
	}
	defer func() {
		v.update(func() {
			if s.console == conn {
				s.console = nil
			}
		})
		close(conn.gone)
		if stop() {
			rw.Close()
		} else {
			<-closed
		}
		hung.Wait()
		conn.turn <- struct{}{} // the last who writes has ended, and nobody follows
	}()
	b := make([]byte, 32<<10)
	var since int
	for {
		n, err := rw.Read(b)
		if n > 0 && v.host.notify == nil {
			v.console.wakeAll()
		}
		if since += n; since > maxConsole/8 {
			since = 0
			s.trimConsole()
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			return err
		}
	}
}

// hangUp ends the connection as soon as nobody writes and the VMM has taken what
// was written.
func (s *session) hangUp(conn *consoleConn, d hypervisor.Drainer) {
	wait := drainFirst
	for {
		s.v.mu.Lock()
		typed := s.typists > 0
		free := !typed && d.Drained()
		if free && s.console == conn {
			s.console = nil // nobody takes it up any more
		}
		s.v.mu.Unlock()
		if free {
			conn.rw.Close()
			return
		}
		var again <-chan time.Time
		if !typed {
			again = time.After(wait)
			wait = min(2*wait, drainMost)
		}
		select {
		case <-conn.left:
			wait = drainFirst
		case <-again:
		case <-conn.gone:
			return
		}
	}
}

// A consoleConn carries the input of a console.
type consoleConn struct {
	rw   io.ReadWriteCloser
	turn chan struct{} // holds a token while somebody writes
	gone chan struct{} // closed when the connection is over
	left chan struct{} // holds a token when the last typist has gone
}

var errConsoleGone = fmt.Errorf("the connection to the console has ended: %w", hypervisor.ErrHypervisorNotRunning)

// write writes p, waiting its turn. When ctx ends before the guest has taken
// all, what it has taken is not known; what it has not is dropped where the
// connection has deadlines, and otherwise still waits for it.
func (c *consoleConn) write(ctx context.Context, p []byte) (int, error) {
	select {
	case c.turn <- struct{}{}:
	case <-c.gone:
		return 0, errConsoleGone
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	type result struct {
		n   int
		err error
	}
	done := make(chan result, 1)
	b := append([]byte(nil), p...)
	// It ends when the guest has read, or with the connection.
	go func() {
		defer func() { <-c.turn }()
		n, err := c.rw.Write(b)
		done <- result{n, err}
	}()
	select {
	case r := <-done:
		return r.n, r.err
	case <-c.gone:
		return 0, errConsoleGone
	case <-ctx.Done():
	}
	if d, ok := c.rw.(interface{ SetWriteDeadline(time.Time) error }); ok && d.SetWriteDeadline(time.Unix(1, 0)) == nil {
		r := <-done
		d.SetWriteDeadline(time.Time{})
		if r.err == nil {
			return r.n, nil
		}
		return r.n, ctx.Err()
	}
	return 0, ctx.Err()
}

// WriteConsole gives p to the guest as input of its serial console. The guest
// may be slow to take it, or never do: ctx ends the wait.
func (v *VM) WriteConsole(ctx context.Context, p []byte) (int, error) {
	n, err := v.writeConsole(ctx, p)
	return n, v.wrap("write console of", err)
}

func (v *VM) writeConsole(ctx context.Context, p []byte) (int, error) {
	v.mu.Lock()
	s := v.session
	if s != nil {
		s.typists++
	}
	v.mu.Unlock()
	if s == nil {
		return 0, hypervisor.ErrHypervisorNotRunning
	}
	defer s.stopTyping()
	select {
	case s.typing <- struct{}{}:
	default:
	}
	conn, err := s.awaitConsole(ctx)
	if err != nil {
		return 0, err
	}
	return conn.write(ctx, p)
}

// stopTyping ends what began with a typist more.
func (s *session) stopTyping() {
	s.v.mu.Lock()
	defer s.v.mu.Unlock()
	s.typists--
	if s.typists == 0 && s.console != nil {
		select {
		case s.console.left <- struct{}{}:
		default:
		}
	}
}

// awaitConsole waits for the connection to the console, which is being made.
func (s *session) awaitConsole(ctx context.Context) (*consoleConn, error) {
	v := s.v
	timer := time.NewTimer(v.host.opts.Timeouts.Verb)
	defer timer.Stop()
	for {
		v.mu.Lock()
		changed, over, conn := v.changed, v.session != s, s.console
		var silent bool
		if s.hv != nil {
			_, ok := s.hv.(hypervisor.Console)
			silent = !ok
		}
		v.mu.Unlock()
		switch {
		case over:
			return nil, hypervisor.ErrHypervisorNotRunning
		case silent:
			return nil, fmt.Errorf("console input: %w", hypervisor.ErrNotSupported)
		case conn != nil:
			return conn, nil
		}
		select {
		case <-changed:
		case <-timer.C:
			return nil, fmt.Errorf("the VMM does not take a connection to the console: %w", context.DeadlineExceeded)
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-v.host.ctx.Done():
			return nil, ErrClosed
		}
	}
}
