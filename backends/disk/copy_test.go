package disk

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The sum of a file is that of its content, however its holes lie, and a copy has
// the content.
func TestCopyAndSum(t *testing.T) {
	dir := t.TempDir()
	ctx := t.Context()
	data := func(size int, at ...int) []byte {
		b := make([]byte, size)
		for _, i := range at {
			b[i] = byte(i%250 + 1)
		}
		return b
	}
	sums := map[string]int{}
	for i, content := range [][]byte{
		nil, data(1), data(1, 0), data(blockSize), data(blockSize + 1), data(blockSize+1, blockSize), data(5*blockSize+7, 3*blockSize),
		data(5*blockSize+7, 3*blockSize+1), data(5*blockSize+7, 4*blockSize), data(5*blockSize+8, 3*blockSize), data(40*blockSize, 0, 39*blockSize),
	} {
		full, holes := filepath.Join(dir, "full"), filepath.Join(dir, "holes")
		require.NoError(t, os.WriteFile(full, content, 0o600))
		f, err := os.Create(holes)
		require.NoError(t, err)
		require.NoError(t, f.Truncate(int64(len(content))))
		for off := 0; off < len(content); off += 4096 {
			if b := content[off:min(off+4096, len(content))]; !bytes.Equal(b, zeroBlock[:len(b)]) {
				_, err := f.WriteAt(b, int64(off))
				require.NoError(t, err)
			}
		}
		require.NoError(t, f.Close())

		size, want, err := sum(ctx, full)
		require.NoError(t, err)
		assert.EqualValues(t, len(content), size)
		_, holesSum, err := sum(ctx, holes)
		require.NoError(t, err)
		assert.Equal(t, want, holesSum, "case %d", i)
		other, ok := sums[want]
		assert.False(t, ok, "cases %d and %d have one sum", i, other)
		sums[want] = i

		for _, from := range []string{full, holes} {
			to := filepath.Join(dir, "copy")
			size, copied, err := Copy(ctx, from, to, 0o640)
			require.NoError(t, err)
			assert.EqualValues(t, len(content), size)
			assert.Equal(t, want, copied)
			got, err := os.ReadFile(to)
			require.NoError(t, err)
			assert.True(t, bytes.Equal(content, got), "case %d", i)
			_, _, err = Copy(ctx, from, to, 0o600)
			require.ErrorIs(t, err, os.ErrExist)
			require.FileExists(t, to, "what was there is left")
			require.NoError(t, os.Remove(to))
		}
	}
}

func TestCopyKeepsHoles(t *testing.T) {
	dir := t.TempDir()
	from := filepath.Join(dir, "from")
	f, err := os.Create(from)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(1<<40))
	_, err = f.WriteAt([]byte("far out"), 1<<39)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	to := filepath.Join(dir, "to")
	_, copied, err := Copy(t.Context(), from, to, 0o600)
	require.NoError(t, err)
	_, again, err := sum(t.Context(), to)
	require.NoError(t, err)
	assert.Equal(t, copied, again)
	fi, err := os.Stat(to)
	require.NoError(t, err)
	assert.EqualValues(t, 1<<40, fi.Size())
	assert.Less(t, fi.Sys().(*syscall.Stat_t).Blocks, int64(1<<20), "512-byte blocks")
}

func TestCopyThatFails(t *testing.T) {
	dir := t.TempDir()
	from := filepath.Join(dir, "from")
	require.NoError(t, os.WriteFile(from, bytes.Repeat([]byte("x"), 3*blockSize), 0o600))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, _, err := Copy(ctx, from, filepath.Join(dir, "to"), 0o600)
	require.ErrorIs(t, err, context.Canceled)
	assert.NoFileExists(t, filepath.Join(dir, "to"))
	_, _, err = Copy(t.Context(), filepath.Join(dir, "none"), filepath.Join(dir, "to"), 0o600)
	require.ErrorIs(t, err, os.ErrNotExist)
	assert.NoFileExists(t, filepath.Join(dir, "to"))
}
