package qemu

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/disk"
	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
)

// TestInterruptedRestore is a server that was killed in a restore: before there was a
// VM, in which case the disks have what they had, and after.
func TestInterruptedRestore(t *testing.T) {
	s := newTestStarter(t)
	dir, disks := shortDir(t), t.TempDir()
	config := bare(dir)
	var paths []string
	for _, name := range []string{"a", "b", "gone"} {
		paths = append(paths, filepath.Join(disks, name))
		config.Disks = append(config.Disks, hypervisor.DiskConfig{Path: paths[len(paths)-1]})
	}
	write := func(text string) {
		for _, path := range paths {
			require.NoError(t, os.WriteFile(path, append([]byte(text), make([]byte, mib)...), 0o600))
		}
	}
	read := func(path string) string {
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		return string(b[:5])
	}
	write("saved")
	v := startTest(t, s, dir, config)
	snap := filepath.Join(t.TempDir(), "snap")
	require.NoError(t, v.Snapshot(testContext(t), snap))
	v.end()
	write("later")
	require.NoError(t, os.Remove(paths[2]))
	m, err := readManifest(snap)
	require.NoError(t, err)
	_, err = disk.Put(testContext(t), v.VM.dir.Swap(), snap, paths, m.Disks)
	require.NoError(t, err)
	kept := filepath.Join(disks, ".b.before1")
	for _, path := range paths {
		assert.Equal(t, "saved", read(path))
	}
	// Killed even earlier, of the second disk's content there is only what is aside.
	require.NoError(t, os.Rename(kept, paths[1]))
	require.NoError(t, os.Link(paths[1], kept))

	v = startTest(t, s, dir, config)
	assert.Equal(t, "later", read(paths[0]))
	assert.Equal(t, "later", read(paths[1]))
	assert.Equal(t, []string{"a", "b", "gone"}, bases(listing(t, disks)))
	assert.NoFileExists(t, v.VM.dir.Swap())
	v.end()

	// A VM that is there has what was restored, and what was kept for it goes.
	_, hv, err := s.RestoreVM(testContext(t), nil, "", filepath.Join(dir, SocketName), snap)
	require.NoError(t, err)
	v = ended(t, s, dir, config, hv.(*VM))
	assert.NoFileExists(t, v.VM.dir.Swap())
	kept = filepath.Join(disks, ".a.before0")
	require.NoError(t, os.WriteFile(kept, []byte("later"), 0o600))
	journal := fmt.Sprintf(`[{"disk": %q, "kept": %q}, {"disk": %q}]`, paths[0], kept, paths[2])
	require.NoError(t, os.WriteFile(v.VM.dir.Swap(), []byte(journal), 0o600))
	v = v.reopen()
	assert.Equal(t, hypervisor.StatePaused, v.info().State)
	require.Eventually(t, func() bool {
		_, err := os.Lstat(kept)
		return os.IsNotExist(err)
	}, patience, 5*time.Millisecond)
	assert.NoFileExists(t, v.VM.dir.Swap())
	assert.Equal(t, "saved", read(paths[0]))
	assert.Equal(t, []string{"a", "b", "gone"}, bases(listing(t, disks)))

	// What cannot be read is no reason to start on the wrong disks.
	pid, err := v.pid()
	require.NoError(t, err)
	proc, err := process.Find(pid)
	require.NoError(t, err)
	v.end()
	require.NoError(t, proc.Wait(testContext(t)))
	require.NoError(t, os.WriteFile(v.VM.dir.Swap(), []byte("["), 0o600))
	_, _, err = s.StartVM(testContext(t), nil, "", filepath.Join(dir, SocketName), config)
	require.ErrorContains(t, err, v.VM.dir.Swap())
}
