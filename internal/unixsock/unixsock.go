//go:build unix

// Package unixsock is all that vmfs does with Unix sockets that have a path: it
// makes them private from the first moment and replaces only what nobody serves,
// connects to them, asks whether somebody serves one without disturbing who does,
// and who is at the other end.
//
// The package imports the standard library, golang.org/x/sys, and packages flock
// and wait.
package unixsock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"

	"vmfs/internal/wait"
)

// MaxPath is the length in bytes of the longest path that a socket can have here.
const MaxPath = len(syscall.RawSockaddrUnix{}.Path) - 1

// ErrPath means that a path cannot be a socket's.
var ErrPath = errors.New("invalid socket path")

// CheckPath returns an ErrPath for a path that no socket can have, of which the
// system itself says no more than "invalid argument".
func CheckPath(path string) error {
	switch n := len(path); {
	case n == 0:
		return fmt.Errorf("%w: it is empty", ErrPath)
	case strings.IndexByte(path, 0) >= 0:
		return fmt.Errorf("%w: %q has a NUL in it", ErrPath, path)
	case n > MaxPath:
		return fmt.Errorf("%w: %s has %d bytes, %d too many: use a shorter directory", ErrPath, path, n, n-MaxPath)
	}
	return nil
}

// Served tells whether a process has the socket at path, so that it may be removed
// if not. Where there is no file nobody has it. It does not wait, and puts no
// connection into the queue of who serves it: it asks with a datagram socket, which
// one for streams refuses by its type, and only if it is alive.
func Served(path string) (bool, error) {
	if err := CheckPath(path); err != nil {
		return false, err
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	switch {
	case err == nil:
		_ = c.Close() // nothing was sent
		return true, nil
	case errors.Is(err, syscall.EPROTOTYPE):
		return true, nil
	case Unserved(err):
		return false, nil
	}
	return false, fmt.Errorf("cannot tell whether a process serves %s: %w", path, errno(err))
}

// Unserved tells of an error of connecting whether it means that no process has the
// socket: there is none, or it was left behind.
func Unserved(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}

// Dial connects to the socket at path. Where the queue of who listens is full, which
// for Unix sockets is an error and not a wait, it tries again until ctx ends. The
// error is the bare errno or the cause of ctx.
func Dial(ctx context.Context, path string) (*net.UnixConn, error) {
	if err := CheckPath(path); err != nil {
		return nil, err
	}
	var d net.Dialer
	pause := wait.Backoff{First: time.Millisecond, Most: 50 * time.Millisecond}
	for {
		c, err := d.DialContext(ctx, "unix", path)
		switch {
		case err == nil:
			return c.(*net.UnixConn), nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case !full(path, err):
			return nil, errno(err)
		}
		if err := pause.Wait(ctx); err != nil {
			return nil, err
		}
	}
}

// full tells of an error of connecting whether who has the socket has too many waiting.
// BSD's error for that is the one for a socket that nobody has.
func full(path string, err error) bool {
	if runtime.GOOS == "linux" || !errors.Is(err, syscall.ECONNREFUSED) {
		return errors.Is(err, syscall.EAGAIN)
	}
	served, serr := Served(path)
	return served && serr == nil
}

// errno strips the layers with which package net repeats what our own messages say.
func errno(err error) error {
	var sys *os.SyscallError
	if errors.As(err, &sys) {
		return sys
	}
	return err
}
