package serial

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"vmfs/internal/unixsock"
	"vmfs/internal/wait"
)

const (
	// dialFirst and dialMost are how often the VMM's socket is tried while nobody
	// listens there: at its start, and while its VM is shut down or boots anew.
	dialFirst = time.Millisecond
	dialMost  = 250 * time.Millisecond
	// drainFirst and drainMost are how often it is asked whether the VMM has taken what
	// was typed. Nothing tells.
	drainFirst = time.Millisecond
	drainMost  = 50 * time.Millisecond

	// A VMM writes byte by byte, and 280 of those fill a connection, whatever is sent
	// before. stuckFrom bytes at once say that it may have been full, and stuckAfter
	// is the silence after them in which the rest is asked for.
	stuckFrom  = 128
	stuckAfter = 100 * time.Millisecond
	// hangUpWait is how long a VMM may take to give up a connection for the next.
	hangUpWait = time.Second
)

// A port is the VM's serial port as the VMM serves it.
type port struct {
	vmm     string
	stuck   bool
	printed *Log
	console *Console
	log     *slog.Logger
	dialing context.Context // ends when there is nobody to connect to any more
	over    context.CancelFunc

	typing sync.Mutex // held while something typed is on its way; before mu

	mu      sync.Mutex // guards the fields below
	conn    *net.UnixConn
	changed chan struct{} // closed and replaced with each change of conn
	until   time.Time     // when the reading ends, zero before it is known
}

func newPort(c Config, printed *Log, log *slog.Logger) *port {
	p := &port{vmm: c.VMM, stuck: c.Stuck, printed: printed, console: NewConsole(), log: log, changed: make(chan struct{})}
	p.dialing, p.over = context.WithCancel(context.Background())
	return p
}

// finish has the port read what is on its way, for as long as most, and end.
func (p *port) finish(most time.Duration) {
	p.over()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.until = time.Now().Add(most)
	if p.conn != nil {
		_ = p.conn.SetReadDeadline(p.until)
	}
}

// run connects to the VMM whenever that listens, and takes what it says, until finish.
func (p *port) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer context.AfterFunc(p.dialing, cancel)()
	defer cancel()
	retry := wait.Backoff{First: dialFirst, Most: dialMost}
	for {
		conn, err := unixsock.Dial(ctx, p.vmm)
		if err == nil && p.read(ctx, conn) {
			retry.Reset()
		}
		if retry.Wait(ctx) != nil {
			return
		}
	}
}

// read takes what comes by a connection until that ends, and then closes it. It tells
// whether anything came.
func (p *port) read(ctx context.Context, conn *net.UnixConn) (some bool) {
	p.use(conn)
	defer func() {
		p.use(nil)
		_ = conn.Close() // it has ended
	}()
	b := make([]byte, 64<<10)
	full := false
	for {
		if full {
			p.limit(conn, time.Now().Add(stuckAfter))
		}
		n, err := conn.Read(b)
		some = some || n > 0
		p.put(b[:n])
		full = full || p.stuck && n >= stuckFrom
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded) && p.limit(conn, time.Time{}):
			if next, ok := p.replace(ctx, conn, b); ok {
				conn = next
				full = false
			}
		default:
			return some
		}
	}
}

func (p *port) put(b []byte) {
	if len(b) > 0 {
		p.printed.Append(b)
		p.console.Put(b)
	}
}

// limit sets when a read of conn ends, zero being never. It is false where there is to
// be none any more.
func (p *port) limit(conn *net.UnixConn, t time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.until.IsZero() && (t.IsZero() || t.After(p.until)) {
		t = p.until
	}
	_ = conn.SetReadDeadline(t)
	return t.IsZero() || t.After(time.Now())
}

// use makes conn the connection, nil is none.
func (p *port) use(conn *net.UnixConn) {
	p.mu.Lock()
	p.conn = conn
	close(p.changed)
	p.changed = make(chan struct{})
	p.mu.Unlock()
	if conn != nil {
		p.limit(conn, time.Time{})
	}
}

// replace connects anew, for which the VMM sends what it has kept and gives up the
// connection before, of which the rest is read. While something is typed it does
// nothing: that would be lost.
func (p *port) replace(ctx context.Context, conn *net.UnixConn, b []byte) (next *net.UnixConn, ok bool) {
	if !p.typing.TryLock() {
		return nil, false
	}
	defer p.typing.Unlock()
	ctx, cancel := context.WithTimeout(ctx, hangUpWait)
	defer cancel()
	next, err := unixsock.Dial(ctx, p.vmm)
	if err != nil {
		return conn, true // the end of the connection tells what is the matter
	}
	for until := time.Now().Add(hangUpWait); p.limit(conn, until); {
		n, err := conn.Read(b)
		p.put(b[:n])
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			_ = conn.Close() // it has ended
			p.use(next)
			return next, true
		}
	}
	_ = next.Close() // nobody has taken it
	p.limit(conn, time.Time{})
	return conn, true
}

// take gives the VMM what was typed, and returns when it has taken it, or
// was reset meanwhile. It waits for a VMM that is not there.
func (p *port) take(ctx context.Context, typed []byte) error {
	for {
		p.mu.Lock()
		conn, changed := p.conn, p.changed
		p.mu.Unlock()
		if conn != nil {
			if sent, err := p.send(ctx, conn, typed); sent || err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// send is take with a connection. It is false where that has ended, or was replaced by
// another.
func (p *port) send(ctx context.Context, conn *net.UnixConn, typed []byte) (sent bool, err error) {
	p.typing.Lock()
	defer p.typing.Unlock()
	p.mu.Lock()
	replaced := p.conn != conn
	p.mu.Unlock()
	if replaced {
		return false, nil
	}
	stop := wait.Interrupt(ctx, func() { _ = conn.SetWriteDeadline(time.Unix(1, 0)) })
	n, err := conn.Write(typed)
	if stop() {
		return false, context.Cause(ctx)
	}
	if err != nil && n == 0 {
		return false, nil
	}
	retry := wait.Backoff{First: drainFirst, Most: drainMost}
	for err == nil {
		var left int
		if left, err = unixsock.Unread(conn); err == nil && left == 0 {
			break
		}
		if err == nil && retry.Wait(ctx) != nil {
			return false, context.Cause(ctx)
		}
	}
	return true, nil // an error is the end of the VM that it was typed to
}
