package serial

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const nonblock = syscall.O_NONBLOCK

// outputRoom is how much of a VMM's words waits for a process that is not there. Where
// a user's pipes may not have so much altogether it is 64 KiB.
const outputRoom = 1 << 20

// MakeOutput makes the FIFO path, in the place of one that is there, and returns what
// a VMM is to have as its standard output and error. It is a reader of the FIFO
// too, so that a VMM that says something while no process reads is not ended by that.
// The caller closes it once the VMM has it.
func MakeOutput(path string) (*os.File, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return nil, &os.PathError{Op: "mkfifo", Path: path, Err: err}
	}
	// Package os would have it not block, as the VMM would then find it.
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	if err := checkFIFO(f); err != nil {
		_ = f.Close() // nothing was written
		return nil, err
	}
	// Less has to do where more is refused.
	_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, outputRoom)
	return f, nil
}

// openOutput opens the FIFO to read it to its end, which is that of its last writer.
func openOutput(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if err := checkFIFO(f); err != nil {
		_ = f.Close() // it was not read
		return nil, err
	}
	return f, nil
}

// checkFIFO refuses what somebody has put in the place of the FIFO.
func checkFIFO(f *os.File) error {
	fi, err := f.Stat()
	if err == nil && fi.Mode().Type() != fs.ModeNamedPipe {
		err = fmt.Errorf("%s is no FIFO", f.Name())
	}
	return err
}
