package ninep

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// maxPending is how many bytes of replies may wait for a client before its
// requests are left unread.
const maxPending = 1 << 20

// output writes a connection's replies. The goroutine that has something to
// write writes it, unless another one is at it; then that one takes it along
// with all else that came up in the meantime.
type output struct {
	nc      net.Conn
	timeout time.Duration
	failed  func(error) // called once, with no lock held

	deadline time.Time // of the writer, who is one at a time

	mu      sync.Mutex // guards pending, writing, err
	drained sync.Cond  // pending became shorter, or err was set
	pending *buf
	writing bool
	err     error
}

func (o *output) init(nc net.Conn, timeout time.Duration, failed func(error)) {
	o.nc, o.timeout, o.failed = nc, timeout, failed
	o.drained.L = &o.mu
}

// add takes replies to be written, in the order of the calls. If it reports
// true the caller must call write with them, holding no lock.
func (o *output) add(b *buf) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.err != nil:
		b.free()
		return false
	case !o.writing:
		o.writing = true
		return true
	case o.pending == nil:
		o.pending = b
		return false
	}
	o.pending = o.pending.grow(len(b.b))
	o.pending.b = append(o.pending.b, b.b...)
	b.free()
	return false
}

// write writes what add was given, and what others add meanwhile.
func (o *output) write(b *buf) {
	for b != nil {
		now := time.Now()
		if o.deadline.Sub(now) < o.timeout {
			o.deadline = now.Add(2 * o.timeout)
			_ = o.nc.SetWriteDeadline(o.deadline)
		}
		_, err := o.nc.Write(b.b)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = errNoReader
		}
		b.free()
		o.mu.Lock()
		b, o.pending = o.pending, nil
		if err != nil {
			o.err = err
			b.free()
			b = nil
		}
		if b == nil {
			o.writing = false
		}
		o.drained.Broadcast()
		o.mu.Unlock()
		if err != nil {
			o.failed(err)
		}
	}
}

// wait waits until the client has read enough of its replies for more to be
// made, or can get none any more.
func (o *output) wait() {
	o.mu.Lock()
	for o.err == nil && o.pending != nil && len(o.pending.b) > maxPending {
		o.drained.Wait()
	}
	o.mu.Unlock()
}

// flush waits until everything is written, or nothing can be.
func (o *output) flush() {
	o.mu.Lock()
	for o.err == nil && o.writing {
		o.drained.Wait()
	}
	o.mu.Unlock()
}

// failure says why nothing can be written any more; nil if something can.
func (o *output) failure() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}
