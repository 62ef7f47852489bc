// Package unixsock listens on and connects to Unix stream sockets the way the
// host's side of a vsock needs it: a private mode from the first moment, stale
// sockets replaced only when nobody answers on them, and a socket file removed
// on close only if it is still the one that was made. It imports the standard
// library alone.
package unixsock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// ErrInUse says that a process answers on the socket, or that the path is
// something other than a socket.
var ErrInUse = errors.New("address in use")

// Listener is a listening Unix socket and the file that names it.
type Listener struct {
	*net.UnixListener
	path string
	made os.FileInfo

	once sync.Once
	err  error
}

// Listen makes the socket path with mode 0600 and listens on it. A socket that
// is there already is replaced if connecting to it is refused; if somebody
// answers, or it is no socket, the error wraps ErrInUse and nothing is touched.
//
// The check and the replacement hold a lock on the directory, so that of two
// processes that find the same stale socket one wins and the other is told.
func Listen(ctx context.Context, path string) (*Listener, error) {
	if err := CheckPath(path); err != nil {
		return nil, err
	}
	unlock, err := lockDir(ctx, filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	defer unlock()

	if err := removeStale(ctx, path); err != nil {
		return nil, err
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		// Linux gives the file the mode of the unbound socket, which leaves
		// no moment at which others could connect. Elsewhere this fails and
		// the Chmod below has to do.
		return c.Control(func(fd uintptr) { _ = syscall.Fchmod(int(fd), 0o600) })
	}}
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, errno(err))
	}
	ul := l.(*net.UnixListener)
	ul.SetUnlinkOnClose(false)
	made, err := finish(path)
	if err != nil {
		_ = ul.Close()
		_ = os.Remove(path)
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return &Listener{UnixListener: ul, path: path, made: made}, nil
}

func finish(path string) (os.FileInfo, error) {
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, err
	}
	return os.Lstat(path)
}

// Path returns the name of the socket.
func (l *Listener) Path() string { return l.path }

// Close stops listening, wakes Accept, and removes the socket's file unless
// somebody else has put their own in its place. Later calls repeat the first
// one's answer.
func (l *Listener) Close() error {
	l.once.Do(func() {
		if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.made) {
			l.err = os.Remove(l.path)
		}
		l.err = errors.Join(l.UnixListener.Close(), l.err)
	})
	return l.err
}

// removeStale makes room at path.
func removeStale(ctx context.Context, path string) error {
	fi, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("listen on %s: %w", path, err)
	case fi.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("listen on %s: %w: it exists and is not a socket; move it away", path, ErrInUse)
	}
	// A datagram socket asks whether anybody owns the name without putting a
	// connection into the owner's queue: a living stream socket answers
	// EPROTOTYPE, listening or not.
	var d net.Dialer
	c, err := d.DialContext(ctx, "unixgram", path)
	switch {
	case err == nil:
		_ = c.Close()
		fallthrough
	case errors.Is(err, syscall.EPROTOTYPE):
		return fmt.Errorf("listen on %s: %w: a process already has this socket", path, ErrInUse)
	case errors.Is(err, syscall.ECONNREFUSED):
	case errors.Is(err, fs.ErrNotExist):
		return nil
	default:
		return fmt.Errorf("listen on %s: cannot tell whether the old socket is in use: %w", path, errno(err))
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("listen on %s: remove the stale socket: %w", path, err)
	}
	return nil
}

// lockDir takes the lock of a directory. Its holders keep it for a few system
// calls only, and no event says when it is free: hence the short waits.
func lockDir(ctx context.Context, dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		err := flock(f)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			_ = f.Close()
			return nil, fmt.Errorf("lock %s: %w", dir, err)
		}
		if err := sleep(ctx, wait); err != nil {
			_ = f.Close()
			return nil, fmt.Errorf("lock %s: %w", dir, err)
		}
	}
}

func flock(f *os.File) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := rc.Control(func(fd uintptr) {
		ferr = syscall.Flock(int(fd), syscall.LOCK_EX|syscall.LOCK_NB)
	}); err != nil {
		return err
	}
	return ferr
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// errno strips the layers with which package net repeats what our own
// messages already say.
func errno(err error) error {
	var sys *os.SyscallError
	if errors.As(err, &sys) {
		return sys
	}
	return err
}
