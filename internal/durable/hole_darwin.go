package durable

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// punchHole gives the blocks of a part of the file back. The error is an
// errors.ErrUnsupported where the file system has no holes.
func punchHole(f *os.File, from, to int64) error {
	// struct fpunchhole_t of <sys/fcntl.h> is flags, 32 bits that are reserved, offset and
	// length, which is how fstore_t begins.
	hole := unix.Fstore_t{Offset: from, Length: to - from}
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	if cerr := rc.Control(func(fd uintptr) { err = unix.FcntlFstore(fd, unix.F_PUNCHHOLE, &hole) }); cerr != nil {
		return cerr
	}
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTTY) {
		return errors.ErrUnsupported
	}
	return os.NewSyscallError("fcntl", err)
}
