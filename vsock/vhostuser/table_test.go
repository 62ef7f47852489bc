//go:build linux

package vhostuser

import (
	"os"
	"path/filepath"
	"testing"
	"time"

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
	is(0) // though the pid is still there

	// One that has locked the file just now, in which the pid is of another, who is
	// none of this: our parent, for one.
	require.NotEqual(t, 0, os.Getppid())
	table, _, err = openTable(t.Context(), statePath(socket), cidOfTests, 8)
	require.NoError(t, err)
	defer table.close()
	put := func(pid int) { copy(table.mem[tablePID:], []byte{byte(pid), byte(pid >> 8), byte(pid >> 16), 0}) }
	put(os.Getppid())
	done := make(chan struct{})
	time.AfterFunc(100*time.Millisecond, func() { put(os.Getpid()); close(done) })
	is(os.Getpid())
	<-done
	put(os.Getppid())
	_, err = Holder(t.Context(), socket)
	assert.ErrorContains(t, err, "does not say who it is")
}
