//go:build unix

// Package flock is vmfs's locks between processes: flock(2) on a file or a
// directory, given back by closing it, and by the kernel when its holder ends,
// however that ends. A child that was given the file has the lock with its parent.
//
// The package imports the standard library and package wait.
package flock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"vmfs/internal/wait"
)

// ErrLocked means that another process has the lock.
var ErrLocked = errors.New("locked by another process")

// Try takes the exclusive lock of f, or returns ErrLocked.
func Try(f *os.File) error { return try(f, syscall.LOCK_EX) }

func try(f *os.File, how int) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	lerr := syscall.EINTR
	if err := rc.Control(func(fd uintptr) {
		for lerr == syscall.EINTR {
			lerr, _ = syscall.Flock(int(fd), how|syscall.LOCK_NB).(syscall.Errno)
		}
	}); err != nil {
		return err
	}
	switch lerr {
	case 0:
		return nil
	case syscall.EWOULDBLOCK:
		return fmt.Errorf("%s: %w", f.Name(), ErrLocked)
	}
	return &os.PathError{Op: "lock", Path: f.Name(), Err: lerr}
}

// File takes the lock of the file path, which it makes with mode 0600 if need be,
// and returns it open for reading and writing: the one that path names, where a
// holder before may have removed another. It waits as long as ctx lets it; the
// error is an ErrLocked then, and the cause of ctx.
func File(ctx context.Context, path string) (*os.File, error) {
	return lock(ctx, path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_NONBLOCK)
}

// Dir takes the lock of a directory itself, as File does that of a file. Whoever may
// read a directory can lock it.
func Dir(ctx context.Context, path string) (*os.File, error) {
	return lock(ctx, path, os.O_RDONLY|syscall.O_DIRECTORY)
}

// MakeDir is Dir, and makes the directory and those above it if need be.
func MakeDir(ctx context.Context, path string) (*os.File, error) {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, err
	}
	return Dir(ctx, path)
}

// lock tries again until it has the lock: flock(2) that waits obeys no context.
func lock(ctx context.Context, path string, flags int) (*os.File, error) {
	pause := wait.Backoff{First: time.Millisecond, Most: 20 * time.Millisecond}
	for {
		f, err := os.OpenFile(path, flags, 0o600)
		if err != nil {
			return nil, err
		}
		if err = Try(f); err == nil && isAt(f, path) {
			return f, nil
		}
		_ = f.Close() // nothing was written
		if err != nil && !errors.Is(err, ErrLocked) {
			return nil, err
		}
		if ended := pause.Wait(ctx); ended != nil {
			if err == nil {
				return nil, ended
			}
			return nil, fmt.Errorf("%w: %w", err, ended)
		}
	}
}

func isAt(f *os.File, path string) bool {
	mine, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(path)
	return err == nil && os.SameFile(mine, there)
}
