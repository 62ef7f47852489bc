//go:build linux || darwin

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
