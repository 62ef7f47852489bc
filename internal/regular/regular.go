//go:build unix

// Package regular opens files whose names others may have given to something else:
// what a VMM, its guest or a user of the host could have put there. A symbolic link in
// the place of the file is not followed, and a FIFO, a device or a directory is an
// error at once and nothing that is waited for.
//
// It is the last name of a path that is not believed. The directories before it are to
// be the server's own, or opened as an os.Root.
//
// The package imports the standard library alone.
package regular

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// ErrNot means that what has the name is no regular file.
var ErrNot = errors.New("not a regular file")

// ErrLarge means that a file has more bytes than it can have.
var ErrLarge = errors.New("too large")

// Open opens a regular file to read it.
func Open(path string) (*os.File, error) { return OpenFile(path, os.O_RDONLY, 0) }

// OpenFile is os.OpenFile for a regular file that is no symbolic link.
func OpenFile(path string, flag int, perm os.FileMode) (*os.File, error) {
	f, err := open(path, flag|syscall.O_NOFOLLOW, perm)
	if errors.Is(err, syscall.ELOOP) {
		err = &fs.PathError{Op: "open", Path: path, Err: fmt.Errorf("%w but a symbolic link", ErrNot)}
	}
	return f, err
}

// Follow is OpenFile for a path that an administrator or a configuration has given, which
// may lead over links.
func Follow(path string, flag int, perm os.FileMode) (*os.File, error) { return open(path, flag, perm) }

func open(path string, flag int, perm os.FileMode) (*os.File, error) {
	// Truncating comes after the look at what it is.
	truncate := flag&os.O_TRUNC != 0
	f, err := os.OpenFile(path, flag&^os.O_TRUNC|syscall.O_NONBLOCK|syscall.O_NOCTTY, perm)
	if errors.Is(err, syscall.ENXIO) { // a FIFO that nobody reads, or a socket
		err = &fs.PathError{Op: "open", Path: path, Err: ErrNot}
	}
	if err != nil {
		return nil, err
	}
	if err = Check(f); err == nil && truncate {
		err = f.Truncate(0)
	}
	if err != nil {
		_ = f.Close() // nothing was written
		return nil, err
	}
	return f, nil
}

// Check returns an ErrNot unless an open file is a regular one.
func Check(f *os.File) error {
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: f.Name(), Err: fmt.Errorf("%w but %s", ErrNot, kind(fi.Mode()))}
	}
	return err
}

// ReadFile reads a regular file of at most so many bytes; of a larger one it is an
// ErrLarge.
func ReadFile(path string, most int64) ([]byte, error) {
	return read(path, most, func(*os.File) error { return nil })
}

// ReadOwn is ReadFile for a file that is believed: it must belong to the server's user,
// or to root.
func ReadOwn(path string, most int64) ([]byte, error) {
	return read(path, most, func(f *os.File) error {
		fi, err := f.Stat()
		if err != nil {
			return err
		}
		if st, ok := fi.Sys().(*syscall.Stat_t); ok && st.Uid != 0 && int(st.Uid) != os.Geteuid() {
			return &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("it belongs to user %d and was not written by the server: %w", st.Uid, fs.ErrPermission)}
		}
		return nil
	})
}

func read(path string, most int64, may func(*os.File) error) ([]byte, error) {
	f, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := may(f); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		return nil, &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("%w: it has more than %d bytes", ErrLarge, most)}
	}
	return b, err
}

// kind is what a file is that is not regular, in words.
func kind(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "a directory"
	case m&fs.ModeNamedPipe != 0:
		return "a FIFO"
	case m&fs.ModeSocket != 0:
		return "a socket"
	case m&fs.ModeDevice != 0:
		return "a device"
	default:
		return m.Type().String()
	}
}
