//go:build unix

package unixsock_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/internal/unixsock"
)

// socket returns a path that a socket can have, with nothing there.
func socket(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "vmfs")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

// stale leaves a socket that nobody serves.
func stale(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	require.NoError(t, err)
	l.SetUnlinkOnClose(false)
	require.NoError(t, l.Close())
	require.FileExists(t, path)
}

func TestCheckPath(t *testing.T) {
	assert.ErrorIs(t, unixsock.CheckPath(""), unixsock.ErrPath)
	assert.ErrorIs(t, unixsock.CheckPath("/a\x00b"), unixsock.ErrPath)
	long := "/" + strings.Repeat("x", unixsock.MaxPath)
	err := unixsock.CheckPath(long)
	assert.ErrorIs(t, err, unixsock.ErrPath)
	assert.ErrorContains(t, err, "1 too many")
	assert.NoError(t, unixsock.CheckPath(long[1:]))

	for _, f := range []func(string) error{
		func(p string) error { _, err := unixsock.Bind(t.Context(), p); return err },
		func(p string) error { _, err := unixsock.Dial(t.Context(), p); return err },
		func(p string) error { _, err := unixsock.Served(p); return err },
	} {
		assert.ErrorIs(t, f(long), unixsock.ErrPath)
	}

	// The longest is one that the system takes.
	dir := filepath.Dir(socket(t))
	longest := filepath.Join(dir, strings.Repeat("s", unixsock.MaxPath-len(dir)-1))
	l, err := unixsock.Listen(t.Context(), longest)
	require.NoError(t, err)
	c, err := unixsock.Dial(t.Context(), longest)
	require.NoError(t, err)
	c.Close()
	require.NoError(t, l.Close())
}

// TestListen sees modes, stale sockets, live ones, and whose socket is removed.
func TestListen(t *testing.T) {
	path := socket(t)
	defer syscall.Umask(syscall.Umask(0))
	l, err := unixsock.Listen(t.Context(), path)
	require.NoError(t, err)
	fi, err := os.Lstat(path)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), fi.Mode().Perm())
	assert.Equal(t, path, l.Path())

	_, err = unixsock.Listen(t.Context(), path)
	require.ErrorIs(t, err, unixsock.ErrInUse)
	c, err := unixsock.Dial(t.Context(), path)
	require.NoError(t, err, "the first one still listens")
	c.Close()
	require.NoError(t, l.Close())
	assert.NoError(t, l.Close())
	assert.NoFileExists(t, path)

	stale(t, path)
	l, err = unixsock.Listen(t.Context(), path)
	require.NoError(t, err)
	require.NoError(t, os.Remove(path))
	other, err := net.Listen("unix", path)
	require.NoError(t, err)
	require.NoError(t, l.Close())
	assert.FileExists(t, path, "another's socket in its place is left alone")
	require.NoError(t, other.Close())

	require.NoError(t, os.WriteFile(path, []byte("precious"), 0o600))
	_, err = unixsock.Listen(t.Context(), path)
	assert.ErrorIs(t, err, unixsock.ErrInUse)
	assert.ErrorContains(t, err, "not a socket")
	assert.FileExists(t, path)
	_, err = unixsock.Listen(t.Context(), "/nowhere/at/all")
	assert.ErrorIs(t, err, os.ErrNotExist)
}

// TestListenTogether starts many at once on one stale socket: one wins.
func TestListenTogether(t *testing.T) {
	path := socket(t)
	stale(t, path)
	type result struct {
		l   *unixsock.Listener
		err error
	}
	results := make(chan result)
	for range 8 {
		go func() {
			l, err := unixsock.Listen(context.Background(), path)
			results <- result{l, err}
		}()
	}
	var won []*unixsock.Listener
	for range 8 {
		r := <-results
		if r.err == nil {
			won = append(won, r.l)
			continue
		}
		assert.ErrorIs(t, r.err, unixsock.ErrInUse)
	}
	require.Len(t, won, 1)
	c, err := unixsock.Dial(t.Context(), path)
	require.NoError(t, err)
	c.Close()
	require.NoError(t, won[0].Close())
}

// What Bind returns can be inherited, and its path stays.
func TestBind(t *testing.T) {
	path := socket(t)
	f, err := unixsock.Bind(t.Context(), path)
	require.NoError(t, err)
	c, err := unixsock.Dial(t.Context(), path)
	require.NoError(t, err)
	defer c.Close()
	l, err := net.FileListener(f)
	require.NoError(t, err)
	defer l.Close()
	in, err := l.Accept()
	require.NoError(t, err)
	defer in.Close()
	require.NoError(t, f.Close())
	assert.FileExists(t, path)
}

// TestServed asks in every state that a socket can be in; who listens is not
// disturbed.
func TestServed(t *testing.T) {
	path := socket(t)
	served := func() bool {
		t.Helper()
		is, err := unixsock.Served(path)
		require.NoError(t, err)
		return is
	}
	assert.False(t, served(), "nothing is there")
	stale(t, path)
	assert.False(t, served(), "nobody has it")
	l, err := unixsock.Listen(t.Context(), path)
	require.NoError(t, err)
	for range 300 { // more than fit into any queue
		require.True(t, served())
	}
	require.NoError(t, l.SetDeadline(time.Now().Add(20*time.Millisecond)))
	_, err = l.Accept()
	assert.ErrorIs(t, err, os.ErrDeadlineExceeded, "who asks does not connect")
	require.NoError(t, l.Close())

	d, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	require.NoError(t, err)
	assert.True(t, served(), "a datagram socket")
	require.NoError(t, d.Close())

	file := filepath.Join(filepath.Dir(path), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err = unixsock.Served(filepath.Join(file, "s"))
	assert.ErrorIs(t, err, syscall.ENOTDIR)
}

// A queue that is full is waited for, as long as the context lets.
func TestDialFull(t *testing.T) {
	path := socket(t)
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	require.NoError(t, err)
	defer syscall.Close(fd)
	require.NoError(t, syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}))
	require.NoError(t, syscall.Listen(fd, 0))
	first, err := unixsock.Dial(t.Context(), path)
	require.NoError(t, err)
	defer first.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	_, err = unixsock.Dial(ctx, path)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	is, err := unixsock.Served(path)
	assert.NoError(t, err)
	assert.True(t, is, "it is full, and served")

	_, err = unixsock.Dial(t.Context(), path+"x")
	assert.ErrorIs(t, err, os.ErrNotExist)
}

// joined returns the two ends of a connection.
func joined(t *testing.T) (dialled *net.UnixConn, accepted net.Conn) {
	t.Helper()
	path := socket(t)
	l, err := unixsock.Listen(t.Context(), path)
	require.NoError(t, err)
	defer l.Close()
	dialled, err = unixsock.Dial(t.Context(), path)
	require.NoError(t, err)
	accepted, err = l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() {
		dialled.Close()
		accepted.Close()
	})
	return dialled, accepted
}

func TestUnread(t *testing.T) {
	c, in := joined(t)
	if _, err := unixsock.Unread(c); errors.Is(err, errors.ErrUnsupported) {
		t.Skip("not known on this system")
	}
	unread := func() int {
		t.Helper()
		n, err := unixsock.Unread(c)
		require.NoError(t, err)
		return n
	}
	assert.Zero(t, unread())
	_, err := c.Write([]byte("hello"))
	require.NoError(t, err)
	assert.Positive(t, unread())
	_, err = in.Read(make([]byte, 5))
	require.NoError(t, err)
	assert.Zero(t, unread())
	require.NoError(t, c.Close())
	_, err = unixsock.Unread(c)
	assert.Error(t, err)
}

func TestPeerOf(t *testing.T) {
	c, in := joined(t)
	for _, end := range []net.Conn{c, in} {
		p, err := unixsock.PeerOf(end)
		require.NoError(t, err)
		assert.Equal(t, os.Getpid(), p.PID)
		assert.EqualValues(t, os.Getuid(), p.UID)
		assert.EqualValues(t, os.Getgid(), p.GID)
		assert.Contains(t, p.Groups, p.GID)
	}
	require.NoError(t, in.Close())
	_, err := unixsock.PeerOf(in)
	assert.ErrorIs(t, err, net.ErrClosed)
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	_, err = unixsock.PeerOf(a)
	assert.ErrorContains(t, err, "not a Unix socket")
}
