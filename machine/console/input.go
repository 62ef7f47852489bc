package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"vmfs/backends/hypervisor"
	"vmfs/internal/wait"
)

const (
	// trimEvery is how often the size of a console's log is looked at.
	trimEvery = 5 * time.Second
	// drainFirst and drainMost are how often it is asked whether a guest has taken
	// what was typed.
	drainFirst = time.Millisecond
	drainMost  = 200 * time.Millisecond
)

// An Input carries what is typed to the guest of one VMM. It connects when somebody
// has something to write, and for no longer than it takes: readers have the log, and
// a guest must not wait for this server to read what it prints, as it would where the
// connection is full.
type Input struct {
	log     *Log
	logger  *slog.Logger
	timeout time.Duration
	typing  chan struct{} // holds a token when a typist has come
	ended   chan struct{} // closed when there is no VMM any more

	mu      sync.Mutex    // guards all below
	changed chan struct{} // closed and replaced with each change of conn and silent
	conn    *conn         // nil while there is none
	silent  bool          // the VMM has no console that can be typed at
	typists int           // how many writes are under way
}

// NewInput makes the input of a console with this log. Who writes waits at most for
// timeout until there is a connection.
func NewInput(log *Log, logger *slog.Logger, timeout time.Duration) *Input {
	return &Input{
		log: log, logger: logger, timeout: timeout,
		typing: make(chan struct{}, 1), ended: make(chan struct{}), changed: make(chan struct{}),
	}
}

// End makes every write fail from now on: the VMM has ended. It is called once.
func (in *Input) End() { close(in.ended) }

// Run connects to the console of hv when somebody types, and bounds the log, for as
// long as ctx lasts. It is called for each handle on the VMM, one at a time.
func (in *Input) Run(ctx context.Context, hv hypervisor.Hypervisor) {
	c, ok := hv.(hypervisor.Console)
	in.update(func() { in.silent = !ok })
	if !ok {
		return
	}
	tick := time.NewTicker(trimEvery)
	defer tick.Stop()
	for {
		in.trim()
		select {
		case <-in.typing:
			in.connect(ctx, c)
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (in *Input) update(f func()) {
	in.mu.Lock()
	defer in.mu.Unlock()
	f()
	close(in.changed)
	in.changed = make(chan struct{})
}

func (in *Input) trim() {
	if err := in.log.Trim(); err != nil {
		in.logger.Warn("cannot trim the console's log", "err", err)
	}
}

// connect connects to the console, for which it tries until nobody wants it any
// more, and returns when that connection has ended.
func (in *Input) connect(ctx context.Context, c hypervisor.Console) {
	retry := wait.Backoff{First: 50 * time.Millisecond, Most: 5 * time.Second}
	var told bool
	for in.typed() {
		rw, err := c.OpenConsole(ctx)
		if err == nil {
			if err = in.carry(ctx, rw); err == nil {
				return
			}
		}
		if ctx.Err() != nil {
			return
		}
		if !told && !errors.Is(err, hypervisor.ErrHypervisorNotRunning) {
			told = true
			in.logger.Warn("cannot connect to the console, trying again", "err", err)
		}
		if retry.Wait(ctx) != nil {
			return
		}
	}
}

// typed reports whether somebody wants to write.
func (in *Input) typed() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.typists > 0
}

// carry makes rw the connection, and reads its output until it ends, which is no
// error, or ctx does.
func (in *Input) carry(ctx context.Context, rw io.ReadWriteCloser) error {
	conn := &conn{rw: rw, turn: make(chan struct{}, 1), gone: make(chan struct{}), left: make(chan struct{}, 1)}
	stop := wait.Interrupt(ctx, func() { rw.Close() })
	in.update(func() { in.conn = conn })
	var hung sync.WaitGroup
	if d, ok := rw.(hypervisor.Drainer); ok {
		hung.Go(func() { in.hangUp(conn, d) })
	}
	defer func() {
		in.update(func() { in.conn = nil })
		close(conn.gone)
		if !stop() {
			rw.Close()
		}
		hung.Wait()
		conn.turn <- struct{}{} // the last write has ended, and none follows
	}()
	b := make([]byte, 32<<10)
	var since int
	for {
		n, err := rw.Read(b)
		if n > 0 && in.log.notify == nil {
			in.log.Wake()
		}
		if since += n; since > maxConsole/8 {
			since = 0
			in.trim()
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
func (in *Input) hangUp(conn *conn, d hypervisor.Drainer) {
	retry := wait.Backoff{First: drainFirst, Most: drainMost}
	for {
		in.mu.Lock()
		typed := in.typists > 0
		free := !typed && d.Drained()
		if free {
			in.conn = nil // nobody takes it up any more
		}
		in.mu.Unlock()
		if free {
			conn.rw.Close()
			return
		}
		var again <-chan time.Time
		if !typed {
			again = time.After(retry.Next())
		}
		select {
		case <-conn.left:
			retry.Reset()
		case <-again:
		case <-conn.gone:
			return
		}
	}
}

// Write gives p to the guest. The guest may be slow to take it, or never do: ctx ends
// the wait.
func (in *Input) Write(ctx context.Context, p []byte) (int, error) {
	in.mu.Lock()
	in.typists++
	in.mu.Unlock()
	defer in.stopTyping()
	select {
	case in.typing <- struct{}{}:
	default:
	}
	conn, err := in.await(ctx)
	if err != nil {
		return 0, err
	}
	return conn.write(ctx, p)
}

// stopTyping ends what began with a typist more.
func (in *Input) stopTyping() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.typists--
	if in.typists == 0 && in.conn != nil {
		select {
		case in.conn.left <- struct{}{}:
		default:
		}
	}
}

// await waits for the connection, which is being made.
func (in *Input) await(ctx context.Context) (*conn, error) {
	timer := time.NewTimer(in.timeout)
	defer timer.Stop()
	for {
		in.mu.Lock()
		conn, silent, changed := in.conn, in.silent, in.changed
		in.mu.Unlock()
		switch {
		case silent:
			return nil, fmt.Errorf("console input: %w", hypervisor.ErrNotSupported)
		case conn != nil:
			return conn, nil
		}
		select {
		case <-changed:
		case <-in.ended:
			return nil, hypervisor.ErrHypervisorNotRunning
		case <-timer.C:
			return nil, fmt.Errorf("the hypervisor does not accept a connection to the console: %w", context.DeadlineExceeded)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// A conn is a connection to a console.
type conn struct {
	rw   io.ReadWriteCloser
	turn chan struct{} // holds a token while somebody writes
	gone chan struct{} // closed when the connection is over
	left chan struct{} // holds a token when the last typist has gone
}

var errConnGone = fmt.Errorf("the connection to the console has ended: %w", hypervisor.ErrHypervisorNotRunning)

// write writes p, waiting its turn. When ctx ends before the guest has taken
// all, what it has taken is not known; what it has not is dropped where the
// connection has deadlines, and otherwise still waits for it.
func (c *conn) write(ctx context.Context, p []byte) (int, error) {
	select {
	case c.turn <- struct{}{}:
	case <-c.gone:
		return 0, errConnGone
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
		return 0, errConnGone
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
