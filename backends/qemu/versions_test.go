package qemu

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/guest/guesttest"
)

// TestSnapshotsOfOtherQEMUs leaves a snapshot in $VMFS_SNAPSHOTS, and restores it and
// those that other QEMUs have left there. `make version-ring` runs it with one QEMU
// after the other, from the oldest on.
func TestSnapshotsOfOtherQEMUs(t *testing.T) {
	root := os.Getenv("VMFS_SNAPSHOTS")
	if root == "" {
		t.Skip("VMFS_SNAPSHOTS names no directory: run `make version-ring`")
	}
	s := newTestStarter(t)
	version, err := s.GetVersion(nil)
	require.NoError(t, err)
	base := filepath.Join(root, version)
	require.NoError(t, os.Mkdir(base, 0o700))

	dir := shortDir(t)
	config := bare(dir)
	// Where it will be restored there must be the same files.
	config.SerialLogPath, config.LogPath = filepath.Join(base, "serial"), filepath.Join(base, "log")
	config.KernelPath, config.InitrdPath = guesttest.Image(t)
	config.KernelArgs = "quiet no_timer_check"
	config.MemoryBytes, config.HotplugBytes = 256*mib, 128*mib
	config.Disks = []hypervisor.DiskConfig{{Path: sparse(t, filepath.Join(base, "disk"), mib)}}
	config.Networks = []hypervisor.NetworkConfig{{User: true, MAC: "52:54:00:aa:bb:cc"}}
	v := startTest(t, s, dir, config)
	v.ready(0)
	sh := v.shell(t)
	sh.run("KEPT=" + version + "; echo on disk, $KEPT >/dev/vda; sync")
	require.NoError(t, v.ResizeMemoryAndWait(testContext(t), 320*mib, patience))
	require.NoError(t, v.Snapshot(testContext(t), filepath.Join(base, "snapshot")))
	sh.run("echo later >/dev/vda; sync")
	v.end()

	entries, err := os.ReadDir(root)
	require.NoError(t, err)
	for _, e := range entries {
		t.Run("of "+e.Name(), func(t *testing.T) {
			dir := shortDir(t)
			snap := filepath.Join(root, e.Name(), "snapshot")
			_, hv, err := s.RestoreVM(testContext(t), nil, "", filepath.Join(dir, SocketName), snap)
			require.NoError(t, err)
			config := config
			config.LogPath, config.SerialLogPath = filepath.Join(root, e.Name(), "log"), filepath.Join(root, e.Name(), "serial")
			v := ended(t, s, dir, config, hv.(*VM))
			require.NoError(t, v.Resume(testContext(t)))
			sh := v.shell(t)
			assert.Equal(t, e.Name(), sh.run("echo $KEPT"))
			assert.Equal(t, "on disk, "+e.Name(), sh.run("echo 3 >/proc/sys/vm/drop_caches; head -n 1 /dev/vda"))
			require.NoError(t, v.ResizeMemoryAndWait(testContext(t), 256*mib, patience), "its memory can still be changed")
			require.NoError(t, v.Snapshot(testContext(t), filepath.Join(t.TempDir(), "again")))
		})
	}
}
