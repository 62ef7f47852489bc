package qemu

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/guest/guesttest"
)

// TestArm64 starts a VM of the other architecture. Its kernel is one instruction:
// a branch to itself.
func TestArm64(t *testing.T) {
	s := newTestStarter(t)
	program, err := exec.LookPath("qemu-system-aarch64")
	if err != nil {
		guesttest.Missing(t, "qemu-system-aarch64 is missing: apt-get install qemu-system-arm")
	}
	dir := shortDir(t)
	kernel := filepath.Join(dir, "kernel")
	require.NoError(t, os.WriteFile(kernel, append([]byte{0, 0, 0, 0x14}, make([]byte, 4096)...), 0o600))
	config := bare(dir)
	config.Extras = map[string]string{"qemu.binary": program}
	config.KernelPath, config.KernelArgs = kernel, "quiet"
	config.VCPUs, config.MemoryBytes, config.HotplugBytes = 2, 128*mib, 128*mib
	disk := sparse(t, filepath.Join(dir, "disk"), mib)
	config.Disks = []hypervisor.DiskConfig{{Path: disk, IOBps: mib}}
	config.Networks = []hypervisor.NetworkConfig{{User: true}}
	v := startTest(t, s, dir, config)
	info := v.info()
	assert.Equal(t, hypervisor.StateRunning, info.State)
	assert.EqualValues(t, 128*mib, *info.MemoryActualSize)
	require.ErrorIs(t, v.ResizeMemoryAndWait(testContext(t), 256*mib, 50*time.Millisecond), context.DeadlineExceeded)
	require.NoError(t, v.Pause(testContext(t)))
	snap := filepath.Join(t.TempDir(), "snap")
	require.NoError(t, v.Snapshot(testContext(t), snap))
	require.NoError(t, v.Shutdown(testContext(t)))
	require.NoError(t, v.Child.Await(testContext(t), patience))
	_, hv, err := s.RestoreVM(testContext(t), nil, "", filepath.Join(dir, SocketName), snap)
	require.NoError(t, err)
	again := ended(t, s, dir, config, hv.(*VM))
	assert.Equal(t, hypervisor.StatePaused, again.info().State)
	require.NoError(t, again.Resume(testContext(t)))
}
