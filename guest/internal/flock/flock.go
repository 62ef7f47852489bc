// Package flock takes turns between processes over a directory. It imports the
// standard library alone.
package flock

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
)

// Dir makes dir if need be and takes an exclusive lock on the file .lock in it,
// which unlock gives back and which the kernel drops if the process dies.
func Dir(ctx context.Context, dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	// flock has no deadline. The goroutine ends when the lock is had, at the
	// latest when its present holder ends.
	done := make(chan error, 1)
	go func() { done <- lock(f) }()
	select {
	case err := <-done:
		if err != nil {
			f.Close()
			return nil, &os.PathError{Op: "lock", Path: f.Name(), Err: err}
		}
		return func() { f.Close() }, nil
	case <-ctx.Done():
		go func() { <-done; f.Close() }()
		return nil, ctx.Err()
	}
}

func lock(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
