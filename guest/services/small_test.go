package services

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// serve runs a handler on a Unix socket and returns how to dial it. The test's end
// closes the listener and waits for all streams.
func serve(t *testing.T, h Handler) func() *net.UnixConn {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "vmfs")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	ln, err := net.Listen("unix", path)
	require.NoError(t, err)
	srv := &Server{Logf: t.Logf}
	srv.Serve(ln, h)
	t.Cleanup(func() {
		ln.Close()
		srv.Wait()
	})
	return func() *net.UnixConn {
		t.Helper()
		c, err := net.Dial("unix", path)
		require.NoError(t, err)
		require.NoError(t, c.SetDeadline(time.Now().Add(time.Minute)))
		t.Cleanup(func() { c.Close() })
		return c.(*net.UnixConn)
	}
}

func TestEcho(t *testing.T) {
	dial := serve(t, Echo)
	a, b := dial(), dial() // at once
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	for _, c := range []*net.UnixConn{a, b} {
		go func() {
			_, _ = c.Write(data)
			_ = c.CloseWrite()
		}()
	}
	for _, c := range []*net.UnixConn{b, a} {
		got, err := io.ReadAll(c)
		require.NoError(t, err)
		assert.True(t, bytes.Equal(data, got), "all of it comes back after the half-close")
	}
}

func TestDiscard(t *testing.T) {
	c := serve(t, Discard)()
	_, err := c.Write(make([]byte, 1<<20))
	require.NoError(t, err)
	require.NoError(t, c.CloseWrite())
	got, err := io.ReadAll(c)
	require.NoError(t, err)
	assert.Empty(t, got)
}

func TestDaytime(t *testing.T) {
	c := serve(t, Daytime)()
	_, err := io.WriteString(c, "input that nobody wants")
	require.NoError(t, err)
	require.NoError(t, c.CloseWrite())
	got, err := io.ReadAll(c)
	require.NoError(t, err)
	when, err := time.Parse(time.RFC1123+"\r\n", string(got))
	require.NoError(t, err)
	assert.WithinDuration(t, time.Now(), when, time.Minute)
}

func TestChargen(t *testing.T) {
	c := serve(t, Chargen)()
	in := bufio.NewReader(c)
	var lines []string
	for range 200 {
		l, err := in.ReadString('\n')
		require.NoError(t, err)
		lines = append(lines, l)
	}
	assert.True(t, strings.HasPrefix(lines[0], ` !"#$%&'()*+`))
	for i, l := range lines {
		assert.Len(t, l, 74)
		assert.Equal(t, byte(' '+i%95), l[0])
	}
	// The clean-up's Wait shows that it ends with the peer.
}

func TestPanicInHandler(t *testing.T) {
	dial := serve(t, func(net.Conn) { panic("trouble") })
	for range 2 { // the second stream is served as the first
		got, err := io.ReadAll(dial())
		require.NoError(t, err)
		assert.Empty(t, got)
	}
}
