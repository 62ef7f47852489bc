package regular_test

import (
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/internal/regular"
)

// TestHostile has in the place of a file all that would make a reader or a writer wait, or
// lead it elsewhere.
func TestHostile(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "vmfs") // short enough for a socket
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	at := func(name string) string { return filepath.Join(dir, name) }
	require.NoError(t, os.WriteFile(at("file"), []byte("content"), 0o600))
	require.NoError(t, os.Symlink("file", at("link")))
	require.NoError(t, os.Symlink("nowhere", at("dangling")))
	require.NoError(t, syscall.Mkfifo(at("fifo"), 0o600))
	require.NoError(t, os.Mkdir(at("dir"), 0o700))
	l, err := net.Listen("unix", at("socket"))
	require.NoError(t, err)
	defer l.Close()

	for _, name := range []string{"link", "dangling", "fifo", "dir", "socket"} {
		for _, flag := range []int{os.O_RDONLY, os.O_WRONLY | os.O_CREATE | os.O_APPEND, os.O_RDWR | os.O_CREATE | os.O_TRUNC} {
			_, err := regular.OpenFile(at(name), flag, 0o600)
			require.Error(t, err, name)
			assert.ErrorContains(t, err, name)
			if name != "dir" { // which the system itself refuses to write
				assert.ErrorIs(t, err, regular.ErrNot, name)
			}
		}
	}
	assert.NoFileExists(t, at("nowhere"))
	_, err = regular.Follow(at("fifo"), os.O_RDONLY, 0)
	require.ErrorIs(t, err, regular.ErrNot)
	f, err := regular.Follow(at("link"), os.O_RDONLY, 0)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	b, err := os.ReadFile(at("file"))
	require.NoError(t, err)
	assert.Equal(t, "content", string(b), "nothing was cut by a name that leads there")

	f, err = regular.OpenFile(at("file"), os.O_RDWR|os.O_TRUNC, 0)
	require.NoError(t, err)
	fi, err := f.Stat()
	require.NoError(t, err)
	assert.Zero(t, fi.Size())
	require.NoError(t, f.Close())
}

func TestReadFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, []byte(strings.Repeat("x", 100)), 0o600))
	b, err := regular.ReadFile(path, 100)
	require.NoError(t, err)
	assert.Len(t, b, 100)
	_, err = regular.ReadFile(path, 99)
	require.ErrorIs(t, err, regular.ErrLarge)
	_, err = regular.ReadFile(path+"2", 99)
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// A file that another user has put there is not believed.
func TestReadOwn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, []byte("x"), 0o644))
	b, err := regular.ReadOwn(path, 10)
	require.NoError(t, err)
	assert.Equal(t, "x", string(b))
	if os.Geteuid() != 0 {
		t.Skip("a file of another user can be made by root alone")
	}
	require.NoError(t, os.Chown(path, 1234, 0))
	_, err = regular.ReadOwn(path, 10)
	require.ErrorIs(t, err, fs.ErrPermission)
	assert.ErrorContains(t, err, "user 1234")
}
