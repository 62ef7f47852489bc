package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"vmfs/backends/hypervisor"
)

// pump holds the one connection to the console: it drains the output, so that no
// guest waits for it (readers take theirs from the file), and carries the input.
// It connects again for as long as ctx lasts.
func (s *session) pump(ctx context.Context, hv hypervisor.Hypervisor) {
	c, ok := hv.(hypervisor.Console)
	if !ok {
		return
	}
	v := s.v
	var told bool
	for wait := retryFirst; ; wait = min(2*wait, retryMost) {
		if err := v.console.trim(); err != nil {
			v.host.log.Warn("console log not trimmed", "vm", v.name, "err", err)
		}
		rw, err := c.OpenConsole(ctx)
		switch {
		case err == nil:
			wait = retryFirst
			err = s.drainConsole(ctx, rw)
		case errors.Is(err, hypervisor.ErrNotSupported):
			return
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil && !told && !notRunning(err) {
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

// drainConsole reads the output until the connection ends, or ctx does.
func (s *session) drainConsole(ctx context.Context, rw io.ReadWriteCloser) error {
	v := s.v
	conn := &consoleConn{rw: rw, turn: make(chan struct{}, 1), gone: make(chan struct{})}
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		rw.Close()
	})
	v.update(func() { s.console = conn })
	defer func() {
		v.update(func() { s.console = nil })
		close(conn.gone)
		if stop() {
			rw.Close()
		} else {
			<-closed
		}
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
			if err := v.console.trim(); err != nil {
				v.host.log.Warn("console log not trimmed", "vm", v.name, "err", err)
			}
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

// A consoleConn carries the input of a console.
type consoleConn struct {
	rw   io.ReadWriteCloser
	turn chan struct{} // holds a token while somebody writes
	gone chan struct{} // closed when the connection is over
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
	for {
		v.mu.Lock()
		s, changed := v.session, v.changed
		var conn *consoleConn
		var silent bool
		if s != nil {
			conn = s.console
			_, ok := s.hv.(hypervisor.Console)
			silent = s.hv != nil && !ok
		}
		v.mu.Unlock()
		switch {
		case s == nil:
			return 0, hypervisor.ErrHypervisorNotRunning
		case silent:
			return 0, fmt.Errorf("console input: %w", hypervisor.ErrNotSupported)
		case conn != nil:
			return conn.write(ctx, p)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-v.host.ctx.Done():
			return 0, ErrClosed
		}
	}
}
