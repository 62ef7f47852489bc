//go:build unix

package flock_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/internal/flock"
)

func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	f, err := flock.File(t.Context(), path)
	require.NoError(t, err)
	fi, err := f.Stat()
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), fi.Mode())

	_, err = flock.File(soon(t), path)
	assert.ErrorIs(t, err, flock.ErrLocked)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.ErrorContains(t, err, path)

	got := make(chan error, 1)
	go func() {
		next, err := flock.File(context.Background(), path)
		if err == nil {
			err = next.Close()
		}
		got <- err
	}()
	require.NoError(t, f.Close())
	assert.NoError(t, <-got, "who waits has it next")

	_, err = flock.File(t.Context(), filepath.Join(path, "no"))
	assert.Error(t, err)
}

// A holder may remove its file as it goes: who waited must not have the lock of a
// file that nobody finds any more.
func TestFileRemoved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	f, err := flock.File(t.Context(), path)
	require.NoError(t, err)
	got := make(chan *os.File, 1)
	go func() {
		next, err := flock.File(context.Background(), path)
		assert.NoError(t, err)
		got <- next
	}()
	require.NoError(t, os.Remove(path))
	require.NoError(t, f.Close())
	next := <-got
	defer next.Close()
	mine, err := next.Stat()
	require.NoError(t, err)
	there, err := os.Stat(path)
	require.NoError(t, err)
	assert.True(t, os.SameFile(mine, there))
}

func TestDir(t *testing.T) {
	dir := t.TempDir()
	d, err := flock.Dir(t.Context(), dir)
	require.NoError(t, err)
	_, err = flock.Dir(soon(t), dir)
	assert.ErrorIs(t, err, flock.ErrLocked)
	require.NoError(t, d.Close())
	d, err = flock.Dir(soon(t), dir)
	require.NoError(t, err)
	require.NoError(t, d.Close())

	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err = flock.Dir(t.Context(), file)
	assert.Error(t, err)
}

func TestTry(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	a, err := os.Create(path)
	require.NoError(t, err)
	defer a.Close()
	b, err := os.Open(path)
	require.NoError(t, err)
	defer b.Close()
	require.NoError(t, flock.Try(a))
	assert.NoError(t, flock.Try(a), "it has it already")
	assert.ErrorIs(t, flock.Try(b), flock.ErrLocked)
}
