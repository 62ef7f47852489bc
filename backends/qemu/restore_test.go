package qemu

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
)

// TestRestoreOfReset saves a VM that was reset while it was paused, for which QEMU
// has a state of its own, also in what it reads back.
func TestRestoreOfReset(t *testing.T) {
	s := newTestStarter(t)
	dir := shortDir(t)
	config := bare(dir)
	v := startTest(t, s, dir, config)
	require.NoError(t, v.Pause(testContext(t)))
	require.NoError(t, v.Reset(testContext(t)))
	status, err := v.status(testContext(t))
	require.NoError(t, err)
	require.Equal(t, "prelaunch", status)
	snap := filepath.Join(t.TempDir(), "snap")
	require.NoError(t, v.Snapshot(testContext(t), snap))
	require.NoError(t, v.Shutdown(testContext(t)))
	require.NoError(t, v.Child.Await(testContext(t), patience))

	_, hv, err := s.RestoreVM(testContext(t), nil, "", filepath.Join(dir, SocketName), snap)
	require.NoError(t, err)
	again := ended(t, s, dir, config, hv.(*VM))
	assert.Equal(t, hypervisor.StatePaused, again.info().State)
	again = again.reopen()
	assert.Equal(t, hypervisor.StatePaused, again.info().State, "for a new handle too")
	require.NoError(t, again.Resume(testContext(t)))
	assert.Equal(t, hypervisor.StateRunning, again.info().State)
}
