package qemu

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/backends/rundir"
)

// TestNoSnapshotWithPCI has a VM that was given a device of the host: it cannot be
// saved, which is said before it runs, while it runs, and before it stands still.
func TestNoSnapshotWithPCI(t *testing.T) {
	s := newTestStarter(t)
	dir := shortDir(t)
	config := bare(dir)
	assert.True(t, s.Capabilities(config).SupportsSnapshot)
	v := startTest(t, s, dir, config)
	assert.Equal(t, s.Capabilities(config), v.Capabilities())

	// Hosts of tests have no device to give away; the record is all that knows.
	require.NoError(t, v.rec.Change(func(r *rundir.Record) { r.Config.PCIDevices = []string{"0000:01:00.0"} }))
	config.PCIDevices = v.record().Config.PCIDevices
	v = v.reopen()
	assert.False(t, s.Capabilities(config).SupportsSnapshot)
	assert.Equal(t, s.Capabilities(config), v.Capabilities())
	snap := t.TempDir()
	err := v.Snapshot(testContext(t), snap)
	require.ErrorIs(t, err, hypervisor.ErrNotSupported)
	assert.ErrorContains(t, err, "pci=")
	left, err := os.ReadDir(snap)
	require.NoError(t, err)
	assert.Empty(t, left)
	assert.Equal(t, hypervisor.StateRunning, v.info().State)
	require.NoError(t, v.Pause(testContext(t)))
	v.events.await(t, 0, "the pause", kind(hypervisor.EventPaused))
	assert.Equal(t, 1, v.events.len(), "it had not stood still before")
}
