package machine

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"vmfs/backends/hypervisor"
)

// smallDisk mounts a file system of 256 KiB.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := stateDir(t)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k,mode=0700"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("no file system of its own for this test, which needs root: %v", err)
		}
		t.Skipf("no file system of its own for this test: %v (run it as root)", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// fill leaves no room at all in dir and returns what makes some.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "filler")
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	require.NoError(t, err)
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	require.ErrorIs(t, err, unix.ENOSPC)
	return func() { os.Remove(path) }
}

func TestFullDisk(t *testing.T) {
	w := registerSim()
	dir := smallDisk(t)
	h := open(t, dir)
	v := create(t, h, "web", "memory=256M")
	config, owner := v.Config().String(), v.Owner()
	free := fill(t, dir)

	err := v.Start(within(t))
	assert.ErrorIs(t, err, unix.ENOSPC)
	assert.ErrorContains(t, err, "start web")
	assert.Equal(t, hypervisor.StateCreated, v.State())
	_, spawned := w.VM(v.SocketPath())
	assert.False(t, spawned)
	assert.ErrorIs(t, v.SetConfig(within(t), "memory=1G", false), unix.ENOSPC)
	assert.Equal(t, config, v.Config().String())
	assert.ErrorIs(t, v.SetOwner(Owner{UID: 1}), unix.ENOSPC)
	assert.Equal(t, owner, v.Owner())
	_, err = h.Create("db", Owner{})
	assert.ErrorIs(t, err, unix.ENOSPC)
	_, ok := h.VM("db")
	assert.False(t, ok)
	require.NoError(t, h.Close())

	h = open(t, dir)
	v, ok = h.VM("web")
	require.True(t, ok, "nothing is lost")
	assert.Equal(t, config, v.Config().String())
	assert.Equal(t, owner, v.Owner())
	assert.Len(t, h.VMs(), 1)
	free()
	require.NoError(t, v.Start(within(t)))
	entries, err := os.ReadDir(v.Dir())
	require.NoError(t, err)
	for _, e := range entries {
		assert.NotEqual(t, '.', rune(e.Name()[0]), "%s was left", e.Name())
	}

	// Full while it runs: what it does is not lost on the next server.
	free = fill(t, dir)
	require.NoError(t, v.Pause(within(t)))
	require.NoError(t, v.Kill(within(t)))
	require.NoError(t, h.Close())
	h = open(t, dir)
	v, _ = h.VM("web")
	assert.Equal(t, hypervisor.StateShutdown, awaitState(t, v, hypervisor.StateShutdown).State)
	require.NoError(t, v.awaitEnd(within(t)))
	require.NoError(t, h.Delete(within(t), "web"), "what is in the way can be removed")
	free()
}

// The disk fills up between the two writes of a start.
func TestDiskFullWithinStart(t *testing.T) {
	dir := smallDisk(t)
	onlyFake(t, dir)
	var free func()
	h := vzHost(t, dir, func(o *Options) {
		o.testHook = func(_, step string) {
			if step == stepSpawned {
				free = fill(t, dir)
			}
		}
	})
	v := started(t, h, "web", "")
	pid := v.Status().PID
	rec, err := readRecord(filepath.Join(v.Dir(), recordFile))
	require.NoError(t, err)
	assert.Equal(t, phaseStarting, rec.Phase)
	require.NoError(t, h.Close())
	h = vzHost(t, dir)
	v, _ = h.VM("web")
	s := awaitState(t, v, hypervisor.StateRunning)
	assert.Equal(t, pid, s.PID)
	free()
	require.NoError(t, v.Stop(within(t)))
	assert.Empty(t, livePIDs(t, dir))
}
