package durable

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestKeepTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	keepTail := func(most int64) int64 {
		cut, err := KeepTail(path, most, 10)
		require.NoError(t, err)
		return cut
	}
	assert.Zero(t, keepTail(100))
	assert.FileExists(t, path)
	require.NoError(t, os.WriteFile(path, []byte(strings.Repeat("x", 100)+"0123456789"), 0o600))
	assert.Zero(t, keepTail(200))
	fi, err := os.Stat(path)
	require.NoError(t, err)
	assert.Equal(t, int64(110), fi.Size())
	assert.EqualValues(t, 100, keepTail(100))
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, "0123456789", string(b))
}

// What was taken aside, or was never whole, is cleared, and nothing else.
func TestAside(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"kept", "gone", NewPrefix + "half-1"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, name, "deep"), 0o700))
	}
	aside, err := TakeAside(filepath.Join(dir, "gone"))
	require.NoError(t, err)
	assert.NoDirExists(t, filepath.Join(dir, "gone"))
	assert.DirExists(t, filepath.Join(aside, "gone", "deep"))
	_, err = TakeAside(filepath.Join(dir, "gone"))
	assert.ErrorIs(t, err, os.ErrNotExist)
	require.NoError(t, ClearLeftovers(dir))
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 1)
	assert.Equal(t, "kept", left[0].Name())
}

// A file that grows is cut again and again, whatever its file system says of its blocks.
func TestCutHead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	require.NoError(t, err)
	defer f.Close()
	const most, keep, step = 128 << 10, 64 << 10, 16 << 10
	var head int64
	left := func() string {
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		return strings.TrimLeft(string(b), "\x00")
	}
	for range 64 {
		_, err := f.WriteString(strings.Repeat("x", step))
		require.NoError(t, err)
		head, err = CutHead(f, head, most, keep)
		require.NoError(t, err)
		require.LessOrEqual(t, len(left()), most)
	}
	require.GreaterOrEqual(t, len(left()), keep)
	require.NoError(t, f.Truncate(0))
	head, err = CutHead(f, head, most, keep)
	require.NoError(t, err)
	require.Zero(t, head, "the file is another now")
}
