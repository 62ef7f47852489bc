package cloudhypervisor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/cloudhypervisor/api"
	"vmfs/backends/cloudhypervisor/chtest"
	"vmfs/backends/disk"
	"vmfs/backends/handle"
	"vmfs/backends/hypervisor"
	"vmfs/backends/rundir"
	"vmfs/internal/wait"
)

// startFake starts a VM with a disk that it can write and one that it cannot.
func startFake(t *testing.T, c chtest.Config) *fake {
	t.Helper()
	f := newFake(t, c)
	f.s.canFault = func() bool { return false }
	dir := filepath.Dir(f.config.KernelPath)
	f.config.HotplugBytes = 200 << 20
	f.config.Disks = []hypervisor.DiskConfig{{Path: filepath.Join(dir, "a")}, {Path: filepath.Join(dir, "b"), Readonly: true}}
	for _, d := range f.config.Disks {
		require.NoError(t, os.WriteFile(d.Path, []byte("saved"), 0o600))
	}
	require.NoError(t, f.start())
	return f
}

// restored follows a VM that was restored, and ends with the test.
func (f *fake) restored(pid int, hv hypervisor.Hypervisor, err error) {
	f.t.Helper()
	require.NoError(f.t, err)
	f.use(hv.(*VM))
	require.Equal(f.t, pid, f.proc.PID)
	child := f.Child
	f.t.Cleanup(func() { _ = child.Kill() })
}

// kill ends the VMM without a word.
func (f *fake) kill() {
	f.t.Helper()
	require.NoError(f.t, f.proc.Signal(syscall.SIGKILL))
	<-f.proc.Gone()
	require.NoError(f.t, f.Close())
}

func (f *fake) disk() string {
	f.t.Helper()
	b, err := os.ReadFile(f.config.Disks[0].Path)
	require.NoError(f.t, err)
	return string(b)
}

func list(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestSnapshotAndRestore(t *testing.T) {
	f := startFake(t, chtest.Config{})
	snap := filepath.Join(t.TempDir(), "new", "snap")
	require.NoError(t, f.Snapshot(t.Context(), snap))
	assert.Equal(t, hypervisor.StateRunning, f.state().state)
	whole := []string{manifestFile, configFile, "disk0", memoryFile, stateFile}
	assert.Equal(t, whole, list(t, snap))
	require.ErrorIs(t, f.Snapshot(t.Context(), snap), fs.ErrExist, "a snapshot is not written over another")
	assert.Equal(t, whole, list(t, snap))
	require.NoError(t, f.Pause(t.Context()))
	require.NoError(t, f.Snapshot(t.Context(), filepath.Join(t.TempDir(), "paused")))
	assert.Equal(t, hypervisor.StatePaused, f.state().state)
	assert.Empty(t, f.Describe(), "of a VM that was started there is no more to say")
	f.kill()

	require.NoError(t, os.WriteFile(f.config.Disks[0].Path, []byte("later"), 0o600))
	f.restored(f.s.RestoreVM(t.Context(), nil, "", f.socket, snap))
	assert.Equal(t, hypervisor.StatePaused, f.state().state)
	assert.Equal(t, "saved", f.disk())
	assert.Equal(t, []hypervisor.Detail{{Key: "memory.restore", Value: "copy"}}, f.Describe())
	assert.NoFileExists(t, f.dir.Swap())
	assert.NoDirExists(t, f.dir.source())
	require.NoError(t, f.Resume(t.Context()))
	assert.Equal(t, hypervisor.StateRunning, f.state().state)
	f.kill()

	// Elsewhere, with the memory read when the guest wants it.
	f.s.canFault = func() bool { return true }
	moved := f.config
	moved.Name, moved.UUID, moved.VsockCID = "elsewhere", "0e37f9a3-26c6-4d46-9b7e-9d4c4a1f0f55", 4
	moved.Disks = []hypervisor.DiskConfig{{Path: f.config.Disks[0].Path + "2"}, f.config.Disks[1]}
	f.restored(f.s.RestoreVMWith(t.Context(), nil, "", f.socket, snap, moved))
	f.config = moved
	assert.Equal(t, "saved", f.disk(), "a disk that was not there")
	assert.Equal(t, []hypervisor.Detail{{Key: "memory.restore", Value: "on-demand"}}, f.Describe())
	id, err := f.Identify(t.Context())
	require.NoError(t, err)
	assert.Equal(t, hypervisor.Identity{Name: moved.Name, UUID: moved.UUID, PID: f.proc.PID}, id)
	info, err := f.client.Info(t.Context())
	require.NoError(t, err)
	assert.Equal(t, moved.Disks[0].Path, info.Config.Disks[0].Path)
	assert.EqualValues(t, 4, info.Config.Vsock.CID)
	again, err := f.s.Open(f.socket)
	require.NoError(t, err)
	assert.Equal(t, f.Describe(), again.Describe(), "for a new handle too")
	require.NoError(t, again.Close())
}

// TestFailedSnapshots has the VMM refuse, die and be left by its caller.
func TestFailedSnapshots(t *testing.T) {
	refused := chtest.Fault{Call: "vm.snapshot", Kind: chtest.Refused, Status: http.StatusInternalServerError, Body: `["Error from API", "The disk is full"]`}
	t.Run("refused", func(t *testing.T) {
		f, dir := startFake(t, chtest.Config{Faults: []chtest.Fault{refused}}), t.TempDir()
		require.ErrorContains(t, f.Snapshot(t.Context(), dir), "disk is full")
		assert.Empty(t, list(t, dir))
		assert.Equal(t, hypervisor.StateRunning, f.state().state)
	})
	t.Run("the VMM dies", func(t *testing.T) {
		f, dir := startFake(t, chtest.Config{Faults: []chtest.Fault{{Call: "vm.snapshot", Kind: chtest.DiesAfter}}}), t.TempDir()
		require.ErrorIs(t, f.Snapshot(t.Context(), dir), hypervisor.ErrHypervisorNotRunning)
		assert.Empty(t, list(t, dir))
	})
	t.Run("the caller goes", func(t *testing.T) {
		f, dir := startFake(t, chtest.Config{Faults: []chtest.Fault{{Call: "vm.snapshot", Delay: time.Second}}}), t.TempDir()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		require.ErrorIs(t, f.Snapshot(ctx, dir), context.DeadlineExceeded)
		assert.Equal(t, hypervisor.StateRunning, f.state().state)
		require.Eventually(t, func() bool { return len(list(t, dir)) == 0 }, 10*time.Second, 5*time.Millisecond)
	})
	t.Run("memory that is still read", func(t *testing.T) {
		refused.Nth = 1
		f := startFake(t, chtest.Config{Faults: []chtest.Fault{refused}})
		rec := *f.record()
		rec.Memory = api.RestoreOnDemand
		require.NoError(t, rundir.Write(f.dir.Dir, &rec))
		f.reopen()
		require.NoError(t, f.Snapshot(t.Context(), t.TempDir()), "it is tried again")
	})
	t.Run("a slow one", func(t *testing.T) {
		f, dir := startFake(t, chtest.Config{}), t.TempDir()
		file, err := os.Create(filepath.Join(dir, memoryFile))
		require.NoError(t, err)
		require.NoError(t, errors.Join(file.Truncate(4<<20), file.Close()))
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan struct{})
		go func() {
			defer close(over)
			(&saving{Taking: f.saver().Begin(dir), vm: f.VM}).tellProgress(ctx)
		}()
		e := f.expect(hypervisor.EventSnapshot)
		cancel()
		<-over
		assert.Equal(t, []hypervisor.Detail{{Key: "done", Value: "0"}, {Key: "total", Value: "4194304"}, {Key: "rate", Value: "0"}}, e.Detail)
	})
	t.Run("a half-written file", func(t *testing.T) {
		f, dir := startFake(t, chtest.Config{}), t.TempDir()
		for _, name := range ownFiles {
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(`{"half": `), 0o600))
		}
		s := &saving{Taking: f.saver().Begin(dir), vm: f.VM}
		require.ErrorContains(t, s.finish(t.Context()), "has not written all of it")
	})
	t.Run("what cannot be saved", func(t *testing.T) {
		qcow2 := hypervisor.VMConfig{Disks: []hypervisor.DiskConfig{{Path: "/a", Format: hypervisor.DiskQCOW2}}}
		for _, c := range []hypervisor.VMConfig{qcow2, {PCIDevices: []string{"01:00.0"}}} {
			require.ErrorIs(t, unsaveable(&c), hypervisor.ErrNotSupported)
			assert.False(t, New(Config{}).Capabilities(c).SupportsSnapshot)
		}
		qcow2.Disks[0].Readonly = true
		require.NoError(t, unsaveable(&qcow2))
	})
}

// TestPausedForASnapshot is a server that died while it wrote a snapshot of a
// running VM: the next one lets the VM go on.
func TestPausedForASnapshot(t *testing.T) {
	f := startFake(t, chtest.Config{})
	f.Hold(true)
	require.NoError(t, f.client.Pause(t.Context()))
	info, err := f.GetVMInfo(t.Context())
	require.NoError(t, err)
	assert.Equal(t, handle.ReasonSnapshot, info.Reason)
	f.reopen()
	require.Eventually(t, func() bool {
		rec, err := rundir.Read[record](f.dir.Dir)
		return err == nil && !rec.Resume && f.state().state == hypervisor.StateRunning
	}, 10*time.Second, 5*time.Millisecond)
	// One that was paused by a command stays so.
	require.NoError(t, wait.Until(testContext(t), time.Millisecond, func() (bool, error) {
		err := f.Pause(t.Context())
		if errors.Is(err, hypervisor.ErrBusy) {
			return false, nil // it lets others in a moment after it has put that down
		}
		return true, err
	}))
	f.reopen()
	assert.Equal(t, hypervisor.StatePaused, f.state().state)
}

// TestFailedRestores has each step of a restore fail: nothing is left, and the disk is as
// it was.
func TestFailedRestores(t *testing.T) {
	f := startFake(t, chtest.Config{})
	snap := filepath.Join(t.TempDir(), "snap")
	require.NoError(t, f.Snapshot(t.Context(), snap))
	f.kill()
	require.NoError(t, f.dir.Clear())
	require.NoError(t, os.Remove(f.dir.Path("vsock.sock")), "a VMM that was killed has left it")
	require.NoError(t, os.WriteFile(f.config.Disks[0].Path, []byte("later"), 0o600))
	refused := func(says string) {
		t.Helper()
		_, hv, err := f.s.RestoreVM(t.Context(), nil, "", f.socket, snap)
		require.ErrorContains(t, err, says)
		require.True(t, hv == nil)
		assert.Equal(t, "later", f.disk())
		assert.Empty(t, list(t, filepath.Dir(f.socket)))
	}
	change := func(name string, how func([]byte) []byte) (undo func()) {
		t.Helper()
		path := filepath.Join(snap, name)
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, how(bytes.Clone(b)), 0o600))
		return func() { require.NoError(t, os.WriteFile(path, b, 0o600)) }
	}
	for _, name := range []string{configFile, stateFile, memoryFile, "disk0"} {
		undo := change(name, func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
		refused("checksum")
		undo()
	}
	undo := change(manifestFile, func(b []byte) []byte { return bytes.Replace(b, []byte(`"state.json"`), []byte(`"disk0"`), 1) })
	refused("names no state.json")
	undo()
	undo = change(manifestFile, func(b []byte) []byte { return bytes.Replace(b, []byte("snapshot 1"), []byte("snapshot 9"), 1) })
	refused("snapshot 9")
	undo()

	whole := f.s
	words := `["Error from API", "The VM could not be restored", "No such luck"]`
	f.s = New(Config{Binary: chtest.Program(t, chtest.Config{Version: "v54.1", Faults: []chtest.Fault{{
		Call: "vm.restore", Kind: chtest.Refused, Status: http.StatusInternalServerError, Body: words,
	}}})})
	refused("such luck (the snapshot was written by version 53.0 of Cloud Hypervisor, and this is 54.1)")
	f.s = New(Config{Binary: chtest.Program(t, chtest.Config{Faults: []chtest.Fault{{Call: "vm.restore", Kind: chtest.DiesBefore}}})})
	refused("killed")
	f.s = New(Config{Binary: filepath.Join(snap, "none")})
	refused("none")

	f.s = whole
	f.restored(f.s.RestoreVM(t.Context(), nil, "", f.socket, snap))
	f.kill()
}

// TestMemoryOfASnapshot is which memory is summed before it is used.
func TestMemoryOfASnapshot(t *testing.T) {
	f := startFake(t, chtest.Config{})
	snap := filepath.Join(t.TempDir(), "snap")
	require.NoError(t, f.Snapshot(t.Context(), snap))
	var m manifest
	require.NoError(t, snapshots.Read(snap, &m))
	check := func(mode api.MemoryRestoreMode) error { return m.check(t.Context(), snap, f.config, mode) }
	for i := range m.Files {
		if m.Files[i].Name == memoryFile {
			m.Files[i].Sum = strings.Repeat("0", 64) // shows whether it is read
		}
	}
	require.ErrorIs(t, check(api.RestoreCopy), hypervisor.ErrInvalid)
	require.NoError(t, check(api.RestoreOnDemand), "nobody has touched it")
	path := filepath.Join(snap, memoryFile)
	fi, err := os.Stat(path)
	require.NoError(t, err)
	require.NoError(t, os.Chtimes(path, fi.ModTime(), fi.ModTime()))
	require.ErrorIs(t, check(api.RestoreOnDemand), hypervisor.ErrInvalid, "somebody has, and hides it")
}

// TestInterruptedRestore is a server that was killed in a restore: before there was a VM, in
// which case the disk has what it had, and after.
func TestInterruptedRestore(t *testing.T) {
	f := startFake(t, chtest.Config{})
	snap := filepath.Join(t.TempDir(), "snap")
	require.NoError(t, f.Snapshot(t.Context(), snap))
	f.kill()
	var m manifest
	require.NoError(t, snapshots.Read(snap, &m))
	paths := []string{f.config.Disks[0].Path, f.config.Disks[1].Path}
	put := func() {
		t.Helper()
		require.NoError(t, os.WriteFile(paths[0], []byte("later"), 0o600))
		_, err := disk.Put(t.Context(), f.dir.Swap(), snap, paths, m.Disks)
		require.NoError(t, err)
		require.NoError(t, os.Mkdir(f.dir.source(), 0o700))
		assert.Equal(t, "saved", f.disk())
	}
	put()
	require.NoError(t, f.start())
	f.kill()
	assert.Equal(t, "later", f.disk())
	assert.NoFileExists(t, f.dir.Swap())

	f.restored(f.s.RestoreVM(t.Context(), nil, "", f.socket, snap))
	put()
	f.reopen()
	require.Eventually(t, func() bool {
		_, err := os.Lstat(f.dir.source())
		return os.IsNotExist(err)
	}, 10*time.Second, 5*time.Millisecond)
	assert.Equal(t, "saved", f.disk())
	assert.NoFileExists(t, f.dir.Swap())
	assert.Equal(t, hypervisor.StatePaused, f.state().state)

	// A VMM that was to restore a VM, and has none, does not start it instead.
	f.kill()
	require.ErrorContains(t, f.finish(t.Context()), "restore it again")
}

func TestManifestOnDisk(t *testing.T) {
	f := startFake(t, chtest.Config{})
	require.NoError(t, f.Snapshot(t.Context(), filepath.Join(filepath.Dir(f.socket), "snap")))
	b, err := os.ReadFile(filepath.Join(filepath.Dir(f.socket), "snap", manifestFile))
	require.NoError(t, err)
	var fields map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(b, &fields))
	var names []string
	for name := range fields {
		names = append(names, name)
	}
	assert.ElementsMatch(t, []string{"format", "time", "version", "config", "disks", "files", "memoryChanged"}, names)
}
