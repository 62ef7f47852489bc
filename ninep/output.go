package ninep

import (
	"errors"
	"net"
	"os"
	"slices"
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
	share   *userShare

	// Of the writer, who is one at a time.
	deadline time.Time
	vecs     net.Buffers

	mu      sync.Mutex // guards what follows
	drained sync.Cond  // pending became shorter, or err was set
	pending []*buf
	waiting int // bytes in pending
	counted int // bytes in pending and being written; beyond smallHeld they are held
	writing bool
	err     error
}

func (o *output) init(nc net.Conn, timeout time.Duration, failed func(error)) {
	o.nc, o.timeout, o.failed = nc, timeout, failed
	o.drained.L = &o.mu
}

// smallReply is what is rather copied to the end of another reply than written as
// a piece of its own.
const smallReply = 4 << 10

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
		o.count(len(b.b))
		return true
	}
	o.count(len(b.b))
	o.waiting += len(b.b)
	if n := len(o.pending); n > 0 && len(b.b) <= smallReply {
		last := o.pending[n-1]
		if cap(last.b)-len(last.b) >= len(b.b) || len(last.b) <= smallReply {
			last = last.grow(len(b.b))
			last.b = append(last.b, b.b...)
			o.pending[n-1] = last
			b.free()
			return false
		}
	}
	o.pending = append(o.pending, b)
	return false
}

// count counts bytes that wait for the client. mu is held.
func (o *output) count(n int) {
	was := max(0, o.counted-smallHeld)
	o.counted += n
	o.share.add(max(0, o.counted-smallHeld) - was)
}

// gather is for who has to call write: it gives b with the small replies that
// others added meanwhile, to be written as one.
func (o *output) gather(b *buf) *buf {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := 0
	for _, more := range o.pending {
		if len(b.b) > smallReply || len(more.b) > bufSizes[1] {
			break
		}
		b = b.grow(len(more.b))
		b.b = append(b.b, more.b...)
		o.waiting -= len(more.b)
		more.free()
		n++
	}
	o.pending = slices.Delete(o.pending, 0, n)
	return b
}

// write writes what add was given, and what others add meanwhile.
func (o *output) write(b *buf) {
	o.extendDeadline()
	n := len(b.b)
	_, err := o.nc.Write(b.b)
	b.free()
	for bs := o.next(nil, n, err); len(bs) > 0; {
		o.extendDeadline()
		err := o.writeAll(bs)
		bs = o.next(bs, 0, err)
	}
}

func (o *output) extendDeadline() {
	now := time.Now()
	if o.deadline.Sub(now) < o.timeout {
		o.deadline = now.Add(2 * o.timeout)
		_ = o.nc.SetWriteDeadline(o.deadline)
	}
}

// next gives what is to be written after done was, and n bytes besides, or failed with
// an error. If there is nothing, somebody else may write.
func (o *output) next(done []*buf, n int, err error) []*buf {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = errNoReader
	}
	for _, b := range done {
		n += len(b.b)
		b.free()
	}
	clear(done)
	o.mu.Lock()
	bs := o.pending
	o.pending, o.waiting = done[:0], 0
	if err != nil {
		o.err = err
		for _, b := range bs {
			n += len(b.b)
			b.free()
		}
		bs = nil
	}
	o.count(-n)
	if len(bs) == 0 {
		// An idle connection keeps nothing.
		o.pending, o.vecs, o.writing = nil, nil, false
	}
	o.drained.Broadcast()
	o.mu.Unlock()
	if err != nil {
		o.failed(err)
	}
	return bs
}

// writeAll writes all of bs, with as few system calls as it takes.
func (o *output) writeAll(bs []*buf) error {
	if len(bs) == 1 {
		_, err := o.nc.Write(bs[0].b)
		return err
	}
	all := o.vecs[:0]
	for _, b := range bs {
		all = append(all, b.b)
	}
	left := all // which is changed as it is written
	_, err := left.WriteTo(o.nc)
	clear(all)
	o.vecs = all
	return err
}

// wait waits until the client has read enough of its replies for more to be
// made, or can get none any more.
func (o *output) wait() {
	o.mu.Lock()
	for o.err == nil && (o.waiting > maxPending || o.waiting > smallHeld && o.share.over()) {
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
