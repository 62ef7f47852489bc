package dial

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want string // in dial form; "" if it is an error
		err  string
	}{
		{"unix!/run/vmfs.sock", "unix!/run/vmfs.sock", ""},
		{"tcp!host!564", "tcp!host!564", ""},
		{"tcp!host", "tcp!host!564", ""},
		{"tcp!*!9fs", "tcp!*!9fs", ""},
		{"tcp!::1!17", "tcp!::1!17", ""},
		{"net!host!1", "tcp!host!1", ""},
		{"vsock!2!564", "vsock!2!564", ""},
		{"vsock!*!1024", "vsock!*!1024", ""},
		{"vsock!host!5", "vsock!host!5", ""},
		{"", "", "want unix!/path"},
		{"/run/x", "", "did you mean unix!/run/x?"},
		{"unix!", "", "it is empty"},
		{"unix!" + strings.Repeat("x", 108), "", "108 bytes"},
		{"unix!/a\x00b", "", "NUL"},
		{"tcp!", "", "no host"},
		{"tcp!h!99999", "", "not within 0 to 65535"},
		{"tcp!h!1!2", "", "want unix!/path"},
		{"vsock!me!5", "", "not a number"},
		{"vsock!3!x", "", "not a number"},
		{"udp!h!5", "", `unknown network "udp"`},
	} {
		a, err := Parse(tc.in)
		if tc.want == "" {
			assert.ErrorIs(t, err, ErrAddress, tc.in)
			assert.ErrorContains(t, err, tc.err, tc.in)
			continue
		}
		require.NoError(t, err, tc.in)
		assert.Equal(t, tc.want, a.String())
	}
	assert.NoError(t, func() error { _, err := Parse("unix!" + strings.Repeat("x", 107)); return err }())
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"unix!/x", "tcp!h!1", "vsock!2!3", "tcp!*", "!", "net!!"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := Parse(s)
		if err != nil {
			return
		}
		b, err := Parse(a.String())
		if err != nil || a != b {
			t.Fatalf("%q gives %v, which gives %v, %v", s, a, b, err)
		}
	})
}

func sockDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/tmp", "vmfs")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// TestListenUnix sees modes, stale sockets, live ones, and whose socket is
// removed.
func TestListenUnix(t *testing.T) {
	path := filepath.Join(sockDir(t), "s")
	addr := "unix!" + path
	old := syscall.Umask(0)
	defer syscall.Umask(old)

	ln, err := Listen(t.Context(), addr)
	require.NoError(t, err)
	fi, err := os.Lstat(path)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), fi.Mode().Perm())

	_, err = Listen(t.Context(), addr)
	require.ErrorIs(t, err, ErrInUse)
	conn, err := Dial(t.Context(), addr)
	require.NoError(t, err, "the first one still listens")
	conn.Close()
	require.NoError(t, ln.Close())
	assert.NoFileExists(t, path)
	_ = ln.Close()

	// One that a server left behind when it was killed.
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	require.NoError(t, err)
	stale.SetUnlinkOnClose(false)
	stale.Close()
	require.FileExists(t, path)
	ln, err = Listen(t.Context(), addr)
	require.NoError(t, err)

	// Another's socket in its place is left alone.
	require.NoError(t, os.Remove(path))
	other, err := net.Listen("unix", path)
	require.NoError(t, err)
	defer other.Close()
	require.NoError(t, ln.Close())
	assert.FileExists(t, path)

	file := filepath.Join(sockDir(t), "f")
	require.NoError(t, os.WriteFile(file, []byte("precious"), 0o600))
	_, err = Listen(t.Context(), "unix!"+file)
	assert.ErrorContains(t, err, "not a socket")
	assert.FileExists(t, file)

	_, err = Listen(t.Context(), "unix!/nowhere/at/all")
	assert.ErrorIs(t, err, os.ErrNotExist)
	_, err = Dial(t.Context(), "unix!"+file+"x")
	assert.ErrorIs(t, err, os.ErrNotExist)
}

// TestListenTogether starts many at once on one stale socket: one wins.
func TestListenTogether(t *testing.T) {
	path := filepath.Join(sockDir(t), "s")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	require.NoError(t, err)
	stale.SetUnlinkOnClose(false)
	stale.Close()
	type result struct {
		ln  net.Listener
		err error
	}
	results := make(chan result)
	for range 8 {
		go func() {
			ln, err := Listen(context.Background(), "unix!"+path)
			results <- result{ln, err}
		}()
	}
	var won []net.Listener
	for range 8 {
		r := <-results
		if r.err == nil {
			won = append(won, r.ln)
			continue
		}
		assert.ErrorIs(t, r.err, ErrInUse)
	}
	require.Len(t, won, 1)
	conn, err := Dial(t.Context(), "unix!"+path)
	require.NoError(t, err)
	conn.Close()
	won[0].Close()
}

func TestListenTCP(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1", "*"} {
		ln, err := Listen(t.Context(), "tcp!"+host+"!0")
		if host == "::1" && err != nil {
			continue // no IPv6 here
		}
		require.NoError(t, err)
		addr := String(ln.Addr())
		assert.True(t, strings.HasPrefix(addr, "tcp!"+host+"!"), addr)
		conn, err := Dial(t.Context(), addr)
		require.NoError(t, err)
		conn.Close()
		ln.Close()
	}
	_, err := Listen(t.Context(), "tcp!127.0.0.1!nosuchport")
	assert.ErrorContains(t, err, "nosuchport")
}
