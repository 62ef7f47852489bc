package vumsg

import (
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"
)

// ErrAgain says that the rest of the message has not come yet.
var ErrAgain = errors.New("message not complete yet")

// replyPatience bounds the wait for a front end that does not read. QEMU waits
// for each reply before it goes on, so the socket never fills up in practice.
const replyPatience = 2 * time.Second

// Conn is the device's end of the connection to the front end.
type Conn struct {
	fd  int
	buf [headerSize + MaxPayload]byte
	n   int // bytes in buf
	fds []int
	out []byte
}

// NewConn takes over a connected, non-blocking stream socket.
func NewConn(fd int) *Conn { return &Conn{fd: fd} }

// FD is for waiting until Recv has something to read.
func (c *Conn) FD() int { return c.fd }

// Close closes the connection, and the descriptors of a message cut off.
func (c *Conn) Close() {
	_ = unix.Close(c.fd)
	closeAll(c.fds)
	c.fds = nil
}

// Recv returns the next message, ErrAgain if it is not all there, io.EOF if
// the front end has hung up between two messages. The payload is good until
// the next call.
func (c *Conn) Recv() (Msg, error) {
	for {
		want := headerSize
		var m Msg
		if c.n >= headerSize {
			var size int
			var err error
			if m, size, err = parseHeader(c.buf[:headerSize]); err != nil {
				return m, err
			}
			want += size
		}
		if c.n == want && c.n >= headerSize {
			m.Payload = c.buf[headerSize:want]
			m.FDs, c.fds, c.n = c.fds, nil, 0
			return m, nil
		}
		if err := c.read(want); err != nil {
			return Msg{}, err
		}
	}
}

// read reads on, up to the message's byte want.
func (c *Conn) read(want int) error {
	oob := make([]byte, unix.CmsgSpace(MaxFDs*4))
	n, oobn, flags, _, err := unix.Recvmsg(c.fd, c.buf[c.n:want], oob, unix.MSG_CMSG_CLOEXEC)
	switch {
	case errors.Is(err, unix.EINTR):
		return nil
	case errors.Is(err, unix.EAGAIN):
		return ErrAgain
	case err != nil:
		return fmt.Errorf("read from the front end: %w", err)
	}
	fds, err := rights(oob[:oobn])
	c.fds = append(c.fds, fds...)
	switch {
	case err != nil:
		return fmt.Errorf("%w: control data: %w", ErrForm, err)
	case flags&unix.MSG_CTRUNC != 0 || len(c.fds) > MaxFDs:
		return fmt.Errorf("%w: too many descriptors", ErrForm)
	case n == 0 && c.n == 0:
		return io.EOF
	case n == 0:
		return io.ErrUnexpectedEOF
	}
	c.n += n
	return nil
}

func rights(oob []byte) (fds []int, err error) {
	if len(oob) == 0 {
		return nil, nil
	}
	cmsgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for i := range cmsgs {
		got, err := unix.ParseUnixRights(&cmsgs[i])
		if err != nil {
			return fds, err
		}
		fds = append(fds, got...)
	}
	return fds, nil
}

// Reply answers a request of type t.
func (c *Conn) Reply(t Type, payload []byte) error {
	c.out = AppendReply(c.out[:0], t, payload)
	deadline := time.Now().Add(replyPatience)
	for b := c.out; len(b) > 0; {
		n, err := unix.SendmsgN(c.fd, b, nil, nil, unix.MSG_NOSIGNAL)
		if n > 0 {
			b = b[n:]
		}
		if err == nil || errors.Is(err, unix.EINTR) {
			continue
		}
		left := time.Until(deadline)
		if !errors.Is(err, unix.EAGAIN) || left <= 0 {
			return fmt.Errorf("answer %s: %w", t, err)
		}
		pfd := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLOUT}}
		if _, err := unix.Poll(pfd, int(left.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("answer %s: %w", t, err)
		}
	}
	return nil
}

// CloseFDs closes the descriptors nobody has taken.
func (m *Msg) CloseFDs() {
	closeAll(m.FDs)
	m.FDs = nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}
