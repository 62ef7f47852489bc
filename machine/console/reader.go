package console

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"
)

// Open begins to read the console: first the last of what it said, up to
// 64 KiB from the start of a line, then what it says from now on, over stops and
// starts of the VM. The caller closes the reader.
func (c *Log) Open() *Reader {
	c.mu.Lock()
	c.readers++
	c.mu.Unlock()
	r := &Reader{log: c, epoch: -1, closed: make(chan struct{})}
	// The past ends here. A file that cannot be opened is the first Read's to tell.
	r.look(nil)
	return r
}

// A Reader reads a console's output. Slow readers hold nobody up; one that
// falls more than the file's bound behind loses the oldest of what it
// has not read.
type Reader struct {
	log    *Log
	once   sync.Once
	closed chan struct{}

	mu    sync.Mutex // one Read at a time; guards all below
	epoch int        // the log's at the last look; -1 before the first
	at    int64      // next byte, as the log counts
}

// Read reads at least one byte of the output, for which it waits. It returns
// io.EOF when the Log or the reader is closed.
func (r *Reader) Read(ctx context.Context, p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		n, wake, noticed, err := r.look(p)
		if n > 0 || err != nil {
			return n, err
		}
		var again <-chan time.Time
		if !noticed {
			again = time.After(lookAgain)
		}
		select {
		case <-wake:
		case <-again:
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-r.closed:
			return 0, io.EOF
		case <-r.log.ended:
			return 0, io.EOF
		}
	}
}

// look reads what there is. With nothing there it returns the channel that is
// closed at the next change, and whether there will be a notice of one.
func (r *Reader) look(p []byte) (n int, wake <-chan struct{}, noticed bool, err error) {
	c := r.log
	c.mu.Lock()
	defer c.mu.Unlock()
	wake = c.wake
	select {
	case <-r.closed:
		return 0, wake, true, nil
	default:
	}
	if err := c.open(); err != nil {
		return 0, wake, false, err
	}
	if c.f == nil {
		return 0, wake, false, nil
	}
	if r.epoch != c.epoch {
		if r.at, err = c.scrollBack(); err != nil {
			return 0, wake, false, err
		}
		r.epoch = c.epoch
	}
	fi, err := c.f.Stat()
	if err != nil {
		return 0, wake, false, err
	}
	if fi.Size() < c.head {
		c.head = 0 // somebody else truncated it
	}
	if r.at > c.base+fi.Size() {
		r.at = c.base
	}
	r.at = max(r.at, c.base+c.head)
	n, err = c.f.ReadAt(p, r.at-c.base)
	r.at += int64(n)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, wake, c.watch != nil, err
}

// scrollBack returns where a new reader starts. The caller holds c.mu.
func (c *Log) scrollBack() (int64, error) {
	fi, err := c.f.Stat()
	if err != nil {
		return 0, err
	}
	if fi.Size() <= scrollBack {
		return c.base, nil
	}
	start := fi.Size() - scrollBack
	b := make([]byte, 4096)
	n, err := c.f.ReadAt(b, start)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	for i, ch := range b[:n] {
		if ch == '\n' {
			return c.base + start + int64(i) + 1, nil
		}
	}
	return c.base + start, nil
}

// Close ends the reader; a Read that waits returns io.EOF.
func (r *Reader) Close() error {
	r.once.Do(func() {
		close(r.closed)
		c := r.log
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.readers--; c.readers == 0 {
			c.release()
		}
	})
	return nil
}

var _ io.Closer = (*Reader)(nil)
