package durable

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Whoever has a process say the same for ever gets a log of a bounded size, which goes on
// where somebody else has cut it.
func TestBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	require.NoError(t, err)
	defer f.Close()
	b := Bounded{f, 1000}
	for range 100 {
		n, err := b.Write([]byte(strings.Repeat("x", 99)))
		require.NoError(t, err)
		require.Equal(t, 99, n)
	}
	size := func() int64 {
		fi, err := f.Stat()
		require.NoError(t, err)
		return fi.Size()
	}
	assert.EqualValues(t, 990, size())
	_, err = KeepTail(path, 500, 100)
	require.NoError(t, err)
	_, err = b.Write([]byte("more"))
	require.NoError(t, err)
	assert.EqualValues(t, 104, size())
}
