package machine

import (
	"encoding/binary"
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// A notifier tells of files that are written to, by any process. There is one for
// a Host: a user may have 128 of the kernel's.
type notifier struct {
	f    *os.File
	done chan struct{} // closed when its goroutine has ended

	mu      sync.Mutex // guards all below
	fd      int        // -1 once closed
	watches map[int32]map[*watch]struct{}
}

// A watch is one file that is waited for.
type watch struct {
	n      *notifier
	wd     int32
	notice func()
}

func newNotifier() (*notifier, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	n := &notifier{
		f:       os.NewFile(uintptr(fd), "inotify"),
		done:    make(chan struct{}),
		fd:      fd,
		watches: make(map[int32]map[*watch]struct{}),
	}
	go n.run()
	return n, nil
}

// close ends the notifier. A nil one is none.
func (n *notifier) close() {
	if n == nil {
		return
	}
	n.mu.Lock()
	n.fd = -1
	n.mu.Unlock()
	n.f.Close()
	<-n.done
}

// watch calls notice, from a goroutine of the notifier's, after every write to
// the file. It returns nil where that cannot be had.
func (n *notifier) watch(path string, notice func()) *watch {
	if n == nil {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fd < 0 {
		return nil
	}
	wd, err := unix.InotifyAddWatch(n.fd, path, unix.IN_MODIFY)
	if err != nil {
		return nil
	}
	w := &watch{n: n, wd: int32(wd), notice: notice}
	// The same file has the same number.
	if n.watches[w.wd] == nil {
		n.watches[w.wd] = make(map[*watch]struct{})
	}
	n.watches[w.wd][w] = struct{}{}
	return w
}

// stop ends the watch. A notice may be on its way still.
func (w *watch) stop() {
	n := w.n
	n.mu.Lock()
	defer n.mu.Unlock()
	set := n.watches[w.wd]
	delete(set, w)
	if len(set) > 0 {
		return
	}
	delete(n.watches, w.wd)
	if n.fd >= 0 {
		unix.InotifyRmWatch(n.fd, uint32(w.wd))
	}
}

func (n *notifier) run() {
	defer close(n.done)
	b := make([]byte, 16<<10)
	for {
		got, err := n.f.Read(b)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return
		}
		for e := b[:got]; len(e) >= unix.SizeofInotifyEvent; {
			wd := int32(binary.NativeEndian.Uint32(e))
			mask := binary.NativeEndian.Uint32(e[4:])
			size := int(binary.NativeEndian.Uint32(e[12:]))
			e = e[min(len(e), unix.SizeofInotifyEvent+size):]
			n.tell(wd, mask)
		}
	}
}

// tell calls those who wait for the file, or everybody when notices were lost.
func (n *notifier) tell(wd int32, mask uint32) {
	n.mu.Lock()
	var notices []func()
	for w := range n.watches[wd] {
		notices = append(notices, w.notice)
	}
	if mask&unix.IN_Q_OVERFLOW != 0 {
		for _, set := range n.watches {
			for w := range set {
				notices = append(notices, w.notice)
			}
		}
	}
	n.mu.Unlock()
	for _, notice := range notices {
		notice()
	}
}

// punchHole gives the blocks of a part of the file back. The error is an
// errors.ErrUnsupported where the file system has no holes.
func punchHole(f *os.File, from, to int64) error {
	err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, from, to-from)
	return os.NewSyscallError("fallocate", err)
}
