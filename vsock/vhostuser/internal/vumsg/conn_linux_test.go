package vumsg

import (
	"io"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func pair(t *testing.T) (front int, dev *Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	dev = NewConn(fds[1])
	t.Cleanup(dev.Close)
	return fds[0], dev
}

func send(t *testing.T, fd int, b []byte, files ...int) {
	t.Helper()
	var oob []byte
	if len(files) > 0 {
		oob = unix.UnixRights(files...)
	}
	require.NoError(t, unix.Sendmsg(fd, b, oob, nil, 0))
}

func TestConn(t *testing.T) {
	front, dev := pair(t)
	_, err := dev.Recv()
	require.ErrorIs(t, err, ErrAgain)

	f, err := os.CreateTemp(t.TempDir(), "")
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	msg := append(le32(uint32(SetVringKick), flagVersion, 8), le64(1)...)
	send(t, front, append(msg, msg[:5]...), int(f.Fd()))
	m, err := dev.Recv()
	require.NoError(t, err)
	assert.Equal(t, SetVringKick, m.Type)
	require.Len(t, m.FDs, 1)
	var mine, theirs unix.Stat_t
	require.NoError(t, unix.Fstat(m.FDs[0], &mine))
	require.NoError(t, unix.Fstat(int(f.Fd()), &theirs))
	assert.Equal(t, theirs.Ino, mine.Ino)
	m.CloseFDs()

	_, err = dev.Recv() // the rest comes byte by byte
	require.ErrorIs(t, err, ErrAgain)
	for _, b := range msg[5:] {
		_, err = dev.Recv()
		require.ErrorIs(t, err, ErrAgain)
		send(t, front, []byte{b})
	}
	m, err = dev.Recv()
	require.NoError(t, err)
	assert.Equal(t, le64(1), m.Payload)

	require.NoError(t, dev.Reply(GetFeatures, le64(5)))
	buf := make([]byte, 100)
	n, err := unix.Read(front, buf)
	require.NoError(t, err)
	assert.Equal(t, append(le32(1, 5, 8), le64(5)...), buf[:n])

	send(t, front, msg[:3])
	require.NoError(t, unix.Close(front))
	_, err = dev.Recv()
	assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
}

func TestConnEnds(t *testing.T) {
	front, dev := pair(t)
	require.NoError(t, unix.Close(front))
	_, err := dev.Recv()
	assert.ErrorIs(t, err, io.EOF)
	assert.Error(t, dev.Reply(GetFeatures, nil))
}

func TestConnTooManyFiles(t *testing.T) {
	front, dev := pair(t)
	defer func() { _ = unix.Close(front) }()
	fds := make([]int, MaxFDs+1)
	for i := range fds {
		fds[i] = front
	}
	send(t, front, le32(1, 1, 0), fds...)
	_, err := dev.Recv()
	assert.ErrorIs(t, err, ErrForm)
}
