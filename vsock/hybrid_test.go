package vsock

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/internal/unixsock"
)

const patience = 20 * time.Second

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "vmfs")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// serveOne answers the first connection to a new socket with f.
func serveOne(t *testing.T, f func(c *net.UnixConn)) *Hybrid {
	t.Helper()
	path := filepath.Join(shortDir(t), "v.sock")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(patience))
		f(c.(*net.UnixConn))
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return &Hybrid{Socket: path, Timeout: patience}
}

func request(t *testing.T, c net.Conn) string {
	line, err := bufio.NewReaderSize(c, 16).ReadString('\n')
	assert.NoError(t, err)
	return line
}

func TestHybridDialKeepsWhatFollowsTheAnswer(t *testing.T) {
	got := make(chan string, 2)
	h := serveOne(t, func(c *net.UnixConn) {
		got <- request(t, c)
		_, _ = io.WriteString(c, "OK 1073741824\nwelcome\nto the guest")
		rest, err := io.ReadAll(c) // until our CloseWrite
		assert.NoError(t, err)
		got <- string(rest)
		_, _ = io.WriteString(c, ", bye")
	})
	c, err := h.DialVsock(t.Context(), 1024)
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	assert.Equal(t, "CONNECT 1024\n", <-got)
	assert.Equal(t, Addr{Socket: h.Socket, Port: 1 << 30}, c.LocalAddr())
	assert.Equal(t, Addr{Socket: h.Socket, Port: 1024}, c.RemoteAddr())

	_, err = io.WriteString(c, "hello")
	require.NoError(t, err)
	require.NoError(t, c.(Conn).CloseWrite())
	assert.Equal(t, "hello", <-got)
	all, err := io.ReadAll(c)
	require.NoError(t, err)
	assert.Equal(t, "welcome\nto the guest, bye", string(all))
}

func TestHybridDialAnswerInPieces(t *testing.T) {
	h := serveOne(t, func(c *net.UnixConn) {
		request(t, c)
		for _, b := range []byte("OK 7\nx") {
			_, _ = c.Write([]byte{b})
			time.Sleep(time.Millisecond)
		}
	})
	c, err := h.DialVsock(t.Context(), 1)
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	all, err := io.ReadAll(c)
	require.NoError(t, err)
	assert.Equal(t, "x", string(all))
}

func TestHybridDialFailures(t *testing.T) {
	answer := func(s string) func(*testing.T) *Hybrid {
		return func(t *testing.T) *Hybrid {
			return serveOne(t, func(c *net.UnixConn) { request(t, c); _, _ = io.WriteString(c, s) })
		}
	}
	for name, tt := range map[string]struct {
		server func(t *testing.T) *Hybrid
		want   error
	}{
		"refused":               {answer(""), ErrRefused},
		"cut off answer":        {answer("OK 10"), ErrRefused},
		"another protocol":      {answer("HTTP/1.1 400 Bad Request\n"), ErrProtocol},
		"no port":               {answer("OK \n"), ErrProtocol},
		"port not a number":     {answer("OK x\n"), ErrProtocol},
		"endless line":          {answer(strings.Repeat("OK", 100)), ErrProtocol},
		"hung up on at once":    {func(t *testing.T) *Hybrid { return serveOne(t, func(c *net.UnixConn) {}) }, ErrUnavailable},
		"no socket":             {func(t *testing.T) *Hybrid { return &Hybrid{Socket: filepath.Join(shortDir(t), "no")} }, ErrUnavailable},
		"socket of a dead VM":   {staleSocket, ErrUnavailable},
		"socket name too long":  {func(t *testing.T) *Hybrid { return &Hybrid{Socket: "/tmp/" + strings.Repeat("x", 200)} }, nil},
		"socket name not given": {func(t *testing.T) *Hybrid { return &Hybrid{} }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			h := tt.server(t)
			c, err := h.DialVsock(t.Context(), 1024)
			if name == "hung up on at once" && errors.Is(err, ErrRefused) {
				// The close may come after our write and before its bytes
				// are read or dropped: then it looks like a refusal.
				return
			}
			require.Error(t, err)
			assert.Nil(t, c)
			if tt.want != nil {
				assert.ErrorIs(t, err, tt.want)
			}
			for _, other := range []error{ErrRefused, ErrUnavailable, ErrProtocol, context.DeadlineExceeded, syscall.ECONNREFUSED} {
				if other != tt.want {
					assert.NotErrorIs(t, err, other)
				}
			}
			assert.Contains(t, err.Error(), "port 1024 by "+h.Socket)
		})
	}
	_, err := (&Hybrid{Socket: "/nowhere"}).DialVsock(t.Context(), 0)
	assert.ErrorIs(t, err, ErrPort)
}

func staleSocket(t *testing.T) *Hybrid {
	path := filepath.Join(shortDir(t), "v.sock")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	require.NoError(t, l.Close())
	return &Hybrid{Socket: path}
}

func TestHybridDialTimesOut(t *testing.T) {
	mute := func(t *testing.T) *Hybrid {
		return serveOne(t, func(c *net.UnixConn) { request(t, c); _, _ = io.Copy(io.Discard, c) })
	}
	t.Run("its own limit", func(t *testing.T) {
		h := mute(t)
		h.Timeout = 30 * time.Millisecond
		_, err := h.DialVsock(t.Context(), 5)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.NotErrorIs(t, err, ErrRefused)
	})
	t.Run("the caller's deadline", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		defer cancel()
		_, err := mute(t).DialVsock(ctx, 5)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
	})
	t.Run("the caller gives up", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("flushed")
		time.AfterFunc(20*time.Millisecond, func() { cancel(why) })
		_, err := mute(t).DialVsock(ctx, 5)
		assert.ErrorIs(t, err, why)
	})
	t.Run("queue full", func(t *testing.T) {
		path := filepath.Join(shortDir(t), "v.sock")
		fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
		require.NoError(t, err)
		defer func() { _ = syscall.Close(fd) }()
		require.NoError(t, syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}))
		require.NoError(t, syscall.Listen(fd, 0))
		first, err := net.Dial("unix", path) // fills the queue
		require.NoError(t, err)
		defer func() { _ = first.Close() }()
		_, err = (&Hybrid{Socket: path, Timeout: 60 * time.Millisecond}).DialVsock(t.Context(), 5)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

func TestHybridCloseWakesReader(t *testing.T) {
	h := serveOne(t, func(c *net.UnixConn) {
		request(t, c)
		_, _ = io.WriteString(c, "OK 1\n")
		_, _ = io.Copy(io.Discard, c)
	})
	c, err := h.DialVsock(t.Context(), 9)
	require.NoError(t, err)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
	_, err = c.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, c.SetReadDeadline(time.Time{}))
	done := make(chan error, 1)
	go func() { _, err := c.Read(make([]byte, 1)); done <- err }()
	require.NoError(t, c.Close())
	select {
	case err := <-done:
		assert.ErrorIs(t, err, net.ErrClosed)
	case <-time.After(patience):
		t.Fatal("Close did not wake the reader")
	}
}

func TestHybridListen(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	h := &Hybrid{Socket: filepath.Join(shortDir(t), "v.sock")}
	l, err := h.ListenVsock(t.Context(), 1234)
	require.NoError(t, err)
	assert.Equal(t, Addr{Socket: h.Socket, Port: 1234}, l.Addr())
	fi, err := os.Lstat(h.Socket + "_1234")
	require.NoError(t, err)
	assert.Equal(t, os.ModeSocket|0o600, fi.Mode())

	_, err = h.ListenVsock(t.Context(), 1234)
	assert.ErrorIs(t, err, unixsock.ErrInUse)

	out, err := net.Dial("unix", ListenPath(h.Socket, 1234))
	require.NoError(t, err)
	in, err := l.Accept()
	require.NoError(t, err)
	_, err = out.Write([]byte("from the guest"))
	require.NoError(t, err)
	require.NoError(t, out.(*net.UnixConn).CloseWrite())
	all, err := io.ReadAll(in)
	require.NoError(t, err)
	assert.Equal(t, "from the guest", string(all))
	require.NoError(t, in.(Conn).CloseWrite())
	require.NoError(t, in.Close())
	require.NoError(t, out.Close())

	done := make(chan error, 1)
	go func() { _, err := l.Accept(); done <- err }()
	require.NoError(t, l.Close())
	assert.ErrorIs(t, <-done, net.ErrClosed)
	assert.NoFileExists(t, h.Socket+"_1234")
	assert.NoError(t, l.Close())

	_, err = h.ListenVsock(t.Context(), MaxPort+1)
	assert.ErrorIs(t, err, ErrPort)
}

func TestHybridListenRespectsWhatIsThere(t *testing.T) {
	t.Run("stale socket is replaced", func(t *testing.T) {
		h := staleSocket(t)
		require.NoError(t, os.Rename(h.Socket, h.Socket+"_1"))
		l, err := h.ListenVsock(t.Context(), 1)
		require.NoError(t, err)
		require.NoError(t, l.Close())
	})
	t.Run("a file is not", func(t *testing.T) {
		h := &Hybrid{Socket: filepath.Join(shortDir(t), "v")}
		require.NoError(t, os.WriteFile(h.Socket+"_1", []byte("mine"), 0o600))
		_, err := h.ListenVsock(t.Context(), 1)
		require.ErrorIs(t, err, unixsock.ErrInUse)
		b, err := os.ReadFile(h.Socket + "_1")
		require.NoError(t, err)
		assert.Equal(t, "mine", string(b))
	})
	t.Run("another's new socket survives our close", func(t *testing.T) {
		h := &Hybrid{Socket: filepath.Join(shortDir(t), "v")}
		l, err := h.ListenVsock(t.Context(), 1)
		require.NoError(t, err)
		require.NoError(t, os.Rename(h.Socket+"_1", h.Socket+"_old"))
		other, err := net.Listen("unix", h.Socket+"_1")
		require.NoError(t, err)
		defer func() { _ = other.Close() }()
		require.NoError(t, l.Close())
		assert.FileExists(t, h.Socket+"_1")
	})
	t.Run("of many at once one wins", func(t *testing.T) {
		h := staleSocket(t)
		require.NoError(t, os.Rename(h.Socket, h.Socket+"_1"))
		var wg sync.WaitGroup
		var mu sync.Mutex // guards won
		var won []net.Listener
		for range 8 {
			wg.Go(func() {
				l, err := h.ListenVsock(t.Context(), 1)
				if err != nil {
					assert.ErrorIs(t, err, unixsock.ErrInUse)
					return
				}
				mu.Lock()
				won = append(won, l)
				mu.Unlock()
			})
		}
		wg.Wait()
		require.Len(t, won, 1)
		require.NoError(t, won[0].Close())
	})
	t.Run("no directory", func(t *testing.T) {
		_, err := (&Hybrid{Socket: "/nonexistent/v"}).ListenVsock(t.Context(), 1)
		assert.ErrorIs(t, err, os.ErrNotExist)
	})
}

func TestKeys(t *testing.T) {
	assert.Equal(t, "unix:/run/a", (&Hybrid{Socket: "/run/a"}).Key())
	assert.Equal(t, "cid:42", (&Kernel{CID: 42}).Key())
}
