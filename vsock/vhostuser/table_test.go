//go:build linux

package vhostuser

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestHolder asks who a device is, of which the socket tells nothing.
func TestHolder(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	is := func(want int) {
		t.Helper()
		pid, err := Holder(t.Context(), socket)
		require.NoError(t, err)
		assert.Equal(t, want, pid)
	}
	is(0)
	table, _, err := openTable(t.Context(), statePath(socket), cidOfTests, 8)
	require.NoError(t, err)
	is(os.Getpid())
	table.close()
	is(0)
}
