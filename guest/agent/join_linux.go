package agent

import (
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stream is a connection whose directions end apart.
type stream interface {
	io.ReadWriter
	CloseWrite() error
	SyscallConn() (syscall.RawConn, error)
}

// askGone is how often a peer that has ended its side is asked whether it still
// takes ours, while the input has nothing for it.
const askGone = 200 * time.Millisecond

// join copies in to the peer, whose end it passes on, and the peer to out, until
// both have ended. A peer that is gone is the end as well, at which the goroutine
// that copies in may be left in its read; it is an error if it did not take all.
func join(c stream, in io.Reader, out io.Writer) error {
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(c, in)
		if err == nil {
			err = c.CloseWrite()
		}
		sent <- err
	}()
	_, err := io.Copy(out, c)
	if err != nil {
		return err
	}
	for {
		select {
		case err := <-sent:
			if errors.Is(err, unix.ENOTCONN) {
				return nil // it was gone when there was nothing left to say
			}
			if err != nil {
				return fmt.Errorf("not all of the input was taken: %w", err)
			}
			return nil
		case <-time.After(askGone):
			if gone(c) {
				return nil
			}
		}
	}
}

// gone tells whether the peer takes no more bytes, by sending it none. No event
// tells: a vsock socket is not hung up before our side has ended, too.
func gone(c stream) bool {
	rc, err := c.SyscallConn()
	if err != nil {
		return true
	}
	cerr := rc.Control(func(fd uintptr) {
		_, err = unix.SendmsgN(int(fd), nil, nil, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
	})
	return cerr != nil || err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
}
