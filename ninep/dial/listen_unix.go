//go:build unix

package dial

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

	"golang.org/x/sys/unix"
)

// unixListener removes its socket on Close if it is still the one it made.
type unixListener struct {
	*net.UnixListener
	path string
	made fs.FileInfo
	once sync.Once
	err  error
}

// Close implements net.Listener.
func (l *unixListener) Close() error {
	l.once.Do(func() {
		// While we still answer, nobody takes the socket for a stale one, so
		// what we compare is what we remove.
		unlock := lockDir(context.Background(), filepath.Dir(l.path))
		if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.made) {
			os.Remove(l.path)
		}
		unlock()
		l.err = l.UnixListener.Close()
	})
	return l.err
}

func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	unlock := lockDir(ctx, filepath.Dir(path))
	defer unlock()
	if err := clearStale(ctx, path); err != nil {
		return nil, err
	}
	ln, err := bindUnix(ctx, path)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%w (it appeared just now)", ErrInUse)
	}
	if err != nil {
		return nil, err
	}
	ln.SetUnlinkOnClose(false)
	made, err := os.Lstat(path)
	if err != nil {
		ln.Close()
		return nil, err
	}
	return &unixListener{UnixListener: ln, path: path, made: made}, nil
}

// clearStale removes a socket that no server answers on.
func clearStale(ctx context.Context, path string) error {
	old, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if old.Mode().Type() != fs.ModeSocket {
		return errors.New("a file is there that is not a socket: remove it or choose another path")
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		conn.Close()
		return ErrInUse
	case errors.Is(err, syscall.EAGAIN):
		return fmt.Errorf("%w (its queue of connections is full)", ErrInUse)
	case errors.Is(err, syscall.ECONNREFUSED):
	case errors.Is(err, fs.ErrNotExist):
		return nil
	default:
		return fmt.Errorf("cannot tell if the socket is still served: %w", err)
	}
	now, err := os.Lstat(path)
	if err != nil || !os.SameFile(old, now) {
		return fmt.Errorf("%w (it appeared just now)", ErrInUse)
	}
	return os.Remove(path)
}

// lockDir keeps servers that start together from taking each other's fresh
// socket for a stale one. Anybody can lock a directory that he can read, so the
// wait is bounded and goes on without; bind alone then decides.
func lockDir(ctx context.Context, dir string) (unlock func()) {
	none := func() {}
	f, err := os.Open(dir)
	if err != nil {
		return none
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		select {
		case <-ctx.Done():
			f.Close()
			return none
		case <-time.After(5 * time.Millisecond):
		}
	}
	return func() { f.Close() }
}
