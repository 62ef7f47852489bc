package vhostuser

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// pageSize is the unit in which bytes for the host are kept.
const pageSize = 4096

// trimPages is how many unused pages the arena keeps before it gives them
// back.
const trimPages = 256

// arena is the memory for bytes that host sockets did not take: of fixed size,
// outside Go's heap, and given back when it is empty.
type arena struct {
	mem   []byte
	next  []int32 // of each page in a fifo or among the free ones
	free  int32   // the first free page that was used before, -1 if none
	fresh int32   // the first page that was never used
	used  int     // pages in fifos
}

var errArenaFull = errors.New("no page left for bytes to the host")

func newArena(pages int) (*arena, error) {
	mem, err := unix.Mmap(-1, 0, pages*pageSize, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	return &arena{mem: mem, next: make([]int32, pages), free: -1}, nil
}

func (a *arena) close() { _ = unix.Munmap(a.mem) }

func (a *arena) alloc() (int32, error) {
	p := a.free
	switch {
	case p >= 0:
		a.free = a.next[p]
	case int(a.fresh) < len(a.next):
		p = a.fresh
		a.fresh++
	default:
		return -1, errArenaFull
	}
	a.next[p] = -1
	a.used++
	return p, nil
}

func (a *arena) release(p int32) {
	a.next[p] = a.free
	a.free = p
	if a.used--; a.used == 0 && a.fresh > trimPages {
		_ = unix.Madvise(a.mem[:int(a.fresh)*pageSize], unix.MADV_DONTNEED)
		a.free, a.fresh = -1, 0
	}
}

func (a *arena) page(p int32) []byte {
	return a.mem[int(p)*pageSize : (int(p)+1)*pageSize : (int(p)+1)*pageSize]
}

// fifo is a queue of bytes in an arena's pages. The zero value is empty.
type fifo struct {
	head, tail int32 // pages, if len > 0
	off        int   // of the first byte in head
	end        int   // of the bytes in tail
	len        int
}

// write appends p.
func (f *fifo) write(a *arena, p []byte) error {
	for len(p) > 0 {
		if f.len == 0 || f.end == pageSize {
			pg, err := a.alloc()
			if err != nil {
				return err
			}
			if f.len == 0 {
				f.head, f.off = pg, 0
			} else {
				a.next[f.tail] = pg
			}
			f.tail, f.end = pg, 0
		}
		n := copy(a.page(f.tail)[f.end:], p)
		p = p[n:]
		f.end += n
		f.len += n
	}
	return nil
}

// iovecs returns the first pieces of the queue, appended to iov.
func (f *fifo) iovecs(a *arena, iov []unix.Iovec) []unix.Iovec {
	off, left := f.off, f.len
	for pg := f.head; left > 0 && len(iov) < maxIovecs; pg = a.next[pg] {
		n := min(left, pageSize-off)
		iov = append(iov, iovec(a.page(pg)[off:off+n]))
		off = 0
		left -= n
	}
	return iov
}

// skip drops the first n bytes, of those that are there.
func (f *fifo) skip(a *arena, n int) {
	for n > 0 {
		m := min(n, pageSize-f.off, f.len)
		n -= m
		f.off += m
		f.len -= m
		if f.off == pageSize || f.len == 0 {
			pg := f.head
			f.head, f.off = a.next[pg], 0
			a.release(pg)
		}
		if f.len == 0 {
			return
		}
	}
}

func (f *fifo) clear(a *arena) { f.skip(a, f.len) }
