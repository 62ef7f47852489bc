package console

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"
	"vmfs/internal/durable"
	"vmfs/internal/regular"
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
	// MaxAlone is the bound for back ends to keep while no server looks: no reader is
	// so far behind that what they cut off is not cut off for it already.
	MaxAlone = 4 * maxConsole
	// MaxNamed is the bound for back ends to keep of a file that the configuration names:
	// whoever wants all of it has room for much, and no guest is to fill a disk.
	MaxNamed = 256 << 20
	// scrollBack is how much of the past a new reader gets.
	scrollBack = 64 << 10
	// lookAgain is how often readers look where there are no notices of changes.
	lookAgain = 200 * time.Millisecond
)

// A Log is the console file of one VM. Offsets of readers count from the first byte
// that the file ever had as far as this process knows: base is that of the file's
// first byte now.
type Log struct {
	notify *Notifier
	end    sync.Once
	ended  chan struct{} // closed when there will be no more

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

// NewLog makes the log of a console, whose file is set by Use. A nil notify tells
// of nothing.
func NewLog(notify *Notifier) *Log {
	return &Log{notify: notify, ended: make(chan struct{}), wake: make(chan struct{})}
}

// Close ends all readers, those to come included.
func (c *Log) Close() { c.end.Do(func() { close(c.ended) }) }

// Use sets the file to read. One that is the VM's own is made, and bounded.
func (c *Log) Use(path string, own bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.path != path {
		c.release()
		c.path, c.own = path, own
		c.base, c.head = 0, 0
		c.epoch++
	}
	c.wakeAll()
}

// Wake makes every reader look.
func (c *Log) Wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wakeAll()
}

func (c *Log) wakeAll() {
	close(c.wake)
	c.wake = make(chan struct{})
}

// release closes the file. The caller holds c.mu.
func (c *Log) release() {
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
func (c *Log) open() error {
	if c.f != nil {
		return nil
	}
	var f *os.File
	var err error
	if c.own {
		f, err = regular.OpenFile(c.path, os.O_RDONLY|os.O_CREATE, 0o600)
	} else {
		f, err = regular.Follow(c.path, os.O_RDONLY, 0)
	}
	if err != nil {
		return durable.IgnoreMissing(err)
	}
	c.f = f
	// The notice is asked for before the first look, so that none is missed.
	c.watch = c.notify.watch(c.path, c.Wake)
	return nil
}

// Prepare makes sure before a start that the file is there and not too large.
func (c *Log) Prepare() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	cut, err := durable.KeepTail(c.path, bigConsole, keepConsole)
	if cut > 0 {
		c.base += cut
		c.head = 0
	}
	return err
}

// Trim bounds the file while a VMM may write it.
func (c *Log) Trim() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.own {
		return nil
	}
	f, err := regular.OpenFile(c.path, os.O_RDWR, 0)
	if err != nil {
		return durable.IgnoreMissing(err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil || fi.Size()-c.head <= maxConsole {
		return err
	}
	head, err := durable.PunchHead(f, fi.Size(), keepConsole)
	if err == nil {
		c.head = head
		return nil
	} else if !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return c.rotate(f, fi.Size())
}

// rotate is Trim without holes.
func (c *Log) rotate(f *os.File, size int64) error {
	old, err := regular.OpenFile(c.path+".1", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
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
	c.wakeAll()
	return nil
}
