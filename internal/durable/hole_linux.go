package durable

import (
	"os"

	"golang.org/x/sys/unix"
)

// punchHole gives the blocks of a part of the file back. The error is an
// errors.ErrUnsupported where the file system has no holes.
func punchHole(f *os.File, from, to int64) error {
	err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, from, to-from)
	return os.NewSyscallError("fallocate", err)
}
