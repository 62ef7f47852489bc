package vhostuser

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxIovecs is how many pieces one readv or writev takes.
const maxIovecs = 1024

// iovec is for memory that does not move: the guest's and the arena's. b must
// not be empty.
func iovec(b []byte) unix.Iovec {
	v := unix.Iovec{Base: &b[0]}
	v.SetLen(len(b))
	return v
}

// appendIovecs appends the pieces of segs behind their first skip bytes, up to
// limit bytes, as far as there is room, and returns how many bytes those are.
func appendIovecs(iov []unix.Iovec, segs [][]byte, skip, limit int) ([]unix.Iovec, int) {
	total := 0
	for _, s := range segs {
		if skip >= len(s) {
			skip -= len(s)
			continue
		}
		s = s[skip:]
		skip = 0
		s = s[:min(len(s), limit-total)]
		if len(s) == 0 || len(iov) == maxIovecs {
			break
		}
		iov = append(iov, iovec(s))
		total += len(s)
	}
	return iov, total
}

// readv and writev are the system calls without the copies of the pieces that
// package unix makes. They do not wait, since the sockets do not.
func readv(fd int, iov []unix.Iovec) (int, error)  { return vector(unix.SYS_READV, fd, iov) }
func writev(fd int, iov []unix.Iovec) (int, error) { return vector(unix.SYS_WRITEV, fd, iov) }

func vector(trap uintptr, fd int, iov []unix.Iovec) (int, error) {
	for {
		n, _, errno := unix.Syscall(trap, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(iov))), uintptr(len(iov)))
		if errno == 0 {
			return int(n), nil
		}
		if !errors.Is(errno, unix.EINTR) {
			return 0, errno
		}
	}
}
