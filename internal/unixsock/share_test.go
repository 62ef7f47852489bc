//go:build unix

package unixsock_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/internal/unixsock"
)

// TestShare lets others in, and gives nobody a file that somebody has put there.
func TestShare(t *testing.T) {
	path := socket(t)
	l, err := unixsock.Listen(t.Context(), path)
	require.NoError(t, err)
	defer l.Close()
	gid := uint32(os.Getegid())
	require.NoError(t, unixsock.Share(path, &gid, 0o660))
	fi, err := os.Lstat(path)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o660), fi.Mode().Perm())

	victim := path + ".victim"
	require.NoError(t, os.WriteFile(victim, nil, 0o600))
	for _, put := range []func() error{
		func() error { return os.Symlink(victim, path) },
		func() error { return os.Link(victim, path) },
	} {
		require.NoError(t, os.Remove(path))
		require.NoError(t, put())
		require.ErrorIs(t, unixsock.Share(path, &gid, 0o666), unixsock.ErrInUse)
		fi, err := os.Stat(victim)
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o600), fi.Mode().Perm())
	}
}
