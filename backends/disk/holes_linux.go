package disk

import (
	"errors"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// nextData returns where the next data at or behind off begin; a huge number is
// nowhere. Where the file system does not tell, they begin at off.
func nextData(f *os.File, off int64) (int64, error) {
	rc, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	var pos int64
	var serr error
	if err := rc.Control(func(fd uintptr) { pos, serr = unix.Seek(int(fd), off, unix.SEEK_DATA) }); err != nil {
		return 0, err
	}
	switch {
	case serr == nil:
		return pos, nil
	case errors.Is(serr, unix.ENXIO):
		return math.MaxInt64, nil
	case errors.Is(serr, unix.EINVAL), errors.Is(serr, unix.ENOTSUP):
		return off, nil
	default:
		return 0, serr
	}
}

// cloneFile makes dst share all blocks of src, where the file system can.
func cloneFile(dst, src *os.File) error {
	from, err := src.SyscallConn()
	if err != nil {
		return err
	}
	to, err := dst.SyscallConn()
	if err != nil {
		return err
	}
	var outer, inner, cloned error
	outer = to.Control(func(d uintptr) {
		inner = from.Control(func(s uintptr) {
			cloned = unix.IoctlFileClone(int(d), int(s))
		})
	})
	return errors.Join(outer, inner, cloned)
}
