package unixsock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"
)

// MaxPath is the longest name a Unix socket can have here.
const MaxPath = len(syscall.RawSockaddrUnix{}.Path) - 1

// CheckPath refuses names that do not fit a Unix socket's address, which the
// system itself reports as a bare "invalid argument".
func CheckPath(path string) error {
	if path == "" {
		return errors.New("no socket path given")
	}
	if len(path) > MaxPath {
		return fmt.Errorf("socket path %s is %d bytes long and the system takes %d: choose a shorter directory",
			path, len(path), MaxPath)
	}
	return nil
}

// Dial connects to the Unix socket path. Where the listener's queue is full,
// which for Unix sockets is an error and not a wait, it tries again until ctx
// ends. The error is the bare errno or the cause of ctx.
func Dial(ctx context.Context, path string) (*net.UnixConn, error) {
	if err := CheckPath(path); err != nil {
		return nil, err
	}
	var d net.Dialer
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		c, err := d.DialContext(ctx, "unix", path)
		if err == nil {
			return c.(*net.UnixConn), nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if !errors.Is(err, syscall.EAGAIN) {
			return nil, errno(err)
		}
		if err := sleep(ctx, wait); err != nil {
			return nil, err
		}
	}
}
