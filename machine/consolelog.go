package machine

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"time"
	"vmfs/internal/durable"
)

// The console's output is a file that the VMM appends to, whether or not a
// server runs: it is the truth, and readers are windows on it. So nothing is lost
// or told twice when the server is restarted.
//
// The file grows for as long as the guest talks. Once it holds more than
// maxConsole its head is cut off, down to keepConsole: by giving the head's blocks
// back to the file system (a hole), which moves no byte and so cannot race with
// the VMM; or, where the file system cannot do that, by copying the tail to
// console.log.1 and truncating the file, which loses from that copy, and from
// readers, what the VMM writes between the two. At a start, when nobody writes, a
// file that is mostly hole is made small again.
const (
	maxConsole  = 8 << 20
	keepConsole = 4 << 20
	// bigConsole is the size with its hole from which a start rewrites it.
	bigConsole = 64 << 20
	// scrollBack is how much of the past a new reader gets.
	scrollBack = 64 << 10
	// lookAgain is how often readers look where there are no notices of changes.
	lookAgain = 200 * time.Millisecond
)

// A consoleLog is the console file of one VM. Offsets of readers count from the
// first byte that the file ever had as far as this process knows: base is that of
// the file's first byte now.
type consoleLog struct {
	v *VM

	mu      sync.Mutex    // guards all below
	wake    chan struct{} // closed and replaced when readers should look
	path    string
	own     bool // not a file that the configuration names
	epoch   int  // counts changes of path
	base    int64
	head    int64    // offset in the file of the first byte that is not cut off
	readers int      // open ones
	f       *os.File // open while there are readers, and the file is there
	watch   *watch   // nil where there are no readers, or no notices
}

func (c *consoleLog) init(v *VM, path string) {
	c.v = v
	c.path, c.own = path, true
	c.wake = make(chan struct{})
}

// use sets the file to read.
func (c *consoleLog) use(path string, own bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.path != path {
		c.release()
		c.path, c.own = path, own
		c.base, c.head = 0, 0
		c.epoch++
	}
	c.wakeLocked()
}

// wakeAll makes every reader look.
func (c *consoleLog) wakeAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wakeLocked()
}

func (c *consoleLog) wakeLocked() {
	close(c.wake)
	c.wake = make(chan struct{})
}

// release closes the file. The caller holds c.mu.
func (c *consoleLog) release() {
	if c.watch != nil {
		c.watch.stop()
		c.watch = nil
	}
	if c.f != nil {
		c.f.Close()
		c.f = nil
	}
}

// open opens the file for the readers. The caller holds c.mu. A file that is not
// there yet is no error.
func (c *consoleLog) open() error {
	if c.f != nil {
		return nil
	}
	flags := os.O_RDONLY
	if c.own {
		flags = os.O_RDONLY | os.O_CREATE
	}
	f, err := os.OpenFile(c.path, flags, 0o600)
	if err != nil {
		return durable.IgnoreMissing(err)
	}
	c.f = f
	// The notice is asked for before the first look, so that none is missed.
	c.watch = c.v.host.notify.watch(c.path, c.wakeAll)
	return nil
}

// prepare makes sure before a start that the file is there and not too large.
func (c *consoleLog) prepare() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	f, err := os.OpenFile(c.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil || fi.Size() <= bigConsole {
		return err
	}
	tail := make([]byte, keepConsole)
	at := fi.Size() - keepConsole
	if _, err := f.ReadAt(tail, at); err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	if _, err := f.WriteAt(tail, 0); err != nil {
		return err
	}
	c.base += at
	c.head = 0
	return nil
}

// trim bounds the file while a VMM may write it.
func (c *consoleLog) trim() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.own {
		return nil
	}
	f, err := os.OpenFile(c.path, os.O_RDWR, 0)
	if err != nil {
		return durable.IgnoreMissing(err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil || fi.Size()-c.head <= maxConsole {
		return err
	}
	const block = 4096
	head := (fi.Size() - keepConsole) / block * block
	if err := punchHole(f, 0, head); err == nil {
		c.head = head
		return nil
	} else if !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return c.rotate(f, fi.Size())
}

// rotate is trim without holes.
func (c *consoleLog) rotate(f *os.File, size int64) error {
	old, err := os.OpenFile(c.path+".1", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(old, io.NewSectionReader(f, size-keepConsole, keepConsole))
	if err := errors.Join(err, old.Close()); err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	c.base += size
	c.head = 0
	c.wakeLocked()
	return nil
}

// OpenConsole begins to read the console: first the last of what it said, up to
// 64 KiB from the start of a line, then what it says from now on, over stops and
// starts of the VM. The caller closes the reader.
func (v *VM) OpenConsole() *ConsoleReader {
	c := &v.console
	c.mu.Lock()
	c.readers++
	c.mu.Unlock()
	r := &ConsoleReader{log: c, epoch: -1, closed: make(chan struct{})}
	// The past ends here. A file that cannot be opened is the first Read's to tell.
	r.look(nil)
	return r
}

// A ConsoleReader reads a console's output. Slow readers hold nobody up; one that
// falls more than the file's bound behind loses the oldest of what it
// has not read.
type ConsoleReader struct {
	log    *consoleLog
	once   sync.Once
	closed chan struct{}

	mu    sync.Mutex // one Read at a time; guards all below
	epoch int        // the log's at the last look; -1 before the first
	at    int64      // next byte, as the log counts
}

// Read reads at least one byte of the output, for which it waits. It returns
// io.EOF when the VM is deleted or the Host or the reader is closed.
func (r *ConsoleReader) Read(ctx context.Context, p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	v := r.log.v
	for {
		n, wake, noticed, err := r.look(p)
		if n > 0 || err != nil {
			return n, v.wrap("read console of", err)
		}
		v.mu.Lock()
		deleted := v.deleted
		v.mu.Unlock()
		if deleted {
			return 0, io.EOF
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
		case <-v.host.ctx.Done():
			return 0, io.EOF
		}
	}
}

// look reads what there is. With nothing there it returns the channel that is
// closed at the next change, and whether there will be a notice of one.
func (r *ConsoleReader) look(p []byte) (n int, wake <-chan struct{}, noticed bool, err error) {
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
func (c *consoleLog) scrollBack() (int64, error) {
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
func (r *ConsoleReader) Close() error {
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

var _ io.Closer = (*ConsoleReader)(nil)
