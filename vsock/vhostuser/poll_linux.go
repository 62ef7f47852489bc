package vhostuser

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// source is what a file descriptor in the poller wakes.
type source interface {
	ready(events uint32)
}

// poller waits for file descriptors. All are edge-triggered: a source is woken
// when something changes, and remembers what it can do until a system call
// tells otherwise; so a stream that must wait costs nothing while it waits.
type poller struct {
	fd    int
	slots []slot
	free  []int32
	buf   [128]unix.EpollEvent
}

// slot tells events of a descriptor from those of a later one of its number.
type slot struct {
	src source
	gen int32
}

// handle names a descriptor in the poller; zero is none.
type handle int32

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	return &poller{fd: fd}, nil
}

func (p *poller) close() { _ = unix.Close(p.fd) }

// add wakes src on events of fd, and once at the start for those that are.
func (p *poller) add(fd int, events uint32, src source) (handle, error) {
	var i int32
	if n := len(p.free); n > 0 {
		i, p.free = p.free[n-1], p.free[:n-1]
	} else {
		i = int32(len(p.slots))
		p.slots = append(p.slots, slot{})
	}
	s := &p.slots[i]
	ev := unix.EpollEvent{Events: events | unix.EPOLLET, Fd: i, Pad: s.gen}
	if err := unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		p.free = append(p.free, i)
		return 0, os.NewSyscallError("epoll_ctl", err)
	}
	s.src = src
	return handle(i + 1), nil
}

// remove must come before fd is closed. A zero handle is ignored.
func (p *poller) remove(fd int, h *handle) {
	if *h == 0 {
		return
	}
	_ = unix.EpollCtl(p.fd, unix.EPOLL_CTL_DEL, fd, nil)
	i := int32(*h) - 1
	p.slots[i].src = nil
	p.slots[i].gen++
	p.free = append(p.free, i)
	*h = 0
}

// wait wakes the sources of the next events, for which it waits as long as
// timeout says; for ever if it is negative.
func (p *poller) wait(timeout time.Duration) error {
	ms := -1
	if timeout >= 0 {
		ms = int(min((timeout+time.Millisecond-1)/time.Millisecond, time.Hour/time.Millisecond))
	}
	n, err := unix.EpollWait(p.fd, p.buf[:], ms)
	if errors.Is(err, unix.EINTR) {
		return nil
	}
	if err != nil {
		return os.NewSyscallError("epoll_wait", err)
	}
	for i := range p.buf[:n] {
		ev := &p.buf[i]
		// A source woken before may have removed this one.
		if s := &p.slots[ev.Fd]; s.gen == ev.Pad && s.src != nil {
			s.src.ready(ev.Events)
		}
	}
	return nil
}

// sourceFunc is a source made of a function.
type sourceFunc func(events uint32)

func (f sourceFunc) ready(events uint32) { f(events) }
