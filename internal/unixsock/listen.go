//go:build unix

package unixsock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vmfs/internal/flock"
)

// ErrInUse means that a process has the socket, or that the path is that of a file
// which is none.
var ErrInUse = errors.New("address in use")

// Bind makes the socket path with mode 0600, which nobody else can connect to at any
// moment, and returns it listening, as a file that a child can inherit. The path
// stays when the file is closed. A socket that is there already is replaced if no
// process has it; if one has, or it is no socket, the error is an ErrInUse and nothing
// is touched. ctx bounds the wait for others that do the same at the same time.
func Bind(ctx context.Context, path string) (*os.File, error) {
	if err := CheckPath(path); err != nil {
		return nil, err
	}
	unlock := lockDir(ctx, path)
	defer unlock()
	if err := RemoveStale(path); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	f, err := bind(path)
	if errors.Is(err, syscall.EADDRINUSE) {
		err = ErrInUse // since a moment ago
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return f, nil
}

// bind makes a listening socket.
func bind(path string) (*os.File, error) {
	syscall.ForkLock.RLock() // no child inherits it by accident
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		unix.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), path)
	err = func() error {
		// On Linux the file has the mode of the socket. Elsewhere it gets its own,
		// before the socket listens: until then connecting is refused.
		if runtime.GOOS == "linux" {
			if err := unix.Fchmod(fd, 0o600); err != nil {
				return os.NewSyscallError("fchmod", err)
			}
		}
		if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
			return os.NewSyscallError("bind", err)
		}
		var err error
		if runtime.GOOS != "linux" {
			err = os.Chmod(path, 0o600)
		}
		if err == nil {
			err = os.NewSyscallError("listen", unix.Listen(fd, unix.SOMAXCONN))
		}
		if err != nil {
			_ = os.Remove(path) // it is ours, and of no use
		}
		return err
	}()
	if err != nil {
		_ = f.Close() // nothing was written
		return nil, err
	}
	return f, nil
}

// RemoveStale removes a socket that no process has. One that a process has, and a file
// that is none, stay, and are an ErrInUse.
func RemoveStale(path string) error {
	old, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case old.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%w: it exists and is not a socket: remove it or choose another path", ErrInUse)
	}
	served, err := Served(path)
	if err != nil {
		return err
	}
	if now, err := os.Lstat(path); served || err == nil && !os.SameFile(old, now) {
		return fmt.Errorf("%w: a process has this socket", ErrInUse)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the socket that nobody serves: %w", err)
	}
	return nil
}

// lockDir keeps those that find the same old socket from taking each other's new
// one for it. Anybody can lock a directory that he can read, so the wait is bounded
// and goes on without; bind alone then decides.
func lockDir(ctx context.Context, path string) (unlock func()) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	d, err := flock.Dir(ctx, filepath.Dir(path))
	if err != nil {
		return func() {}
	}
	return func() { _ = d.Close() }
}

// A Listener is a listening socket and the file that names it.
type Listener struct {
	*net.UnixListener
	path string
	made fs.FileInfo

	once sync.Once
	err  error
}

// Listen listens on what Bind makes.
func Listen(ctx context.Context, path string) (*Listener, error) {
	f, err := Bind(ctx, path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // the listener has a descriptor of its own
	made, err := os.Lstat(path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	ul := l.(*net.UnixListener)
	ul.SetUnlinkOnClose(false)
	return &Listener{UnixListener: ul, path: path, made: made}, nil
}

// Path returns the name of the socket.
func (l *Listener) Path() string { return l.path }

// Close stops listening, wakes Accept, and removes the socket's file unless somebody
// else has put their own in its place. Later calls repeat the first one's answer.
func (l *Listener) Close() error {
	l.once.Do(func() {
		// While we still have it nobody takes the socket for an old one, so what
		// is compared is what is removed.
		unlock := lockDir(context.Background(), l.path)
		if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.made) {
			l.err = os.Remove(l.path)
		}
		unlock()
		l.err = errors.Join(l.UnixListener.Close(), l.err)
	})
	return l.err
}
