package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/internal/unixsock"
	"vmfs/machine/events"
	"vmfs/machine/owner"
	"vmfs/vsock"
)

func TestNames(t *testing.T) {
	for name, ok := range map[string]bool{
		"web": true, "a": true, "0": true, "_x": true, "web-1.example": true, "vm0": true,
		strings.Repeat("a", 63): true,
		strings.Repeat("a", 64): false,
		"":                      false, ".": false, "..": false, ".web": false, "-web": false, "a/b": false,
		"a b": false, "a\nb": false, "é": false, "a\x00": false, "a,b": false,
		"ctl2": true, "state": true,
	} {
		err := CheckName(name)
		if ok {
			assert.NoError(t, err, "%q", name)
			continue
		}
		assert.ErrorIs(t, err, ErrName, "%q", name)
		assert.ErrorIs(t, err, hypervisor.ErrInvalid, "%q", name)
	}
}

// TestReserved: a name that the tree has a file of is no VM's, neither a new one's nor
// that of a directory which somebody made.
func TestReserved(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "vms", "events"), 0o700))
	h, err := Open(t.Context(), Options{StateDir: dir, Reserved: []string{"ctl", "events"}})
	require.NoError(t, err)
	defer h.Close()
	_, err = h.Create("ctl", Owner{})
	require.ErrorIs(t, err, ErrExists)
	assert.ErrorContains(t, err, "one of the server's own files")
	_, ok := h.VM("events")
	assert.False(t, ok)
}

func TestNameRoom(t *testing.T) {
	longest := filepath.Join("/var/lib/vmfs/vms", strings.Repeat("a", nameRoom("/var/lib/vmfs/vms")), "run", vsock.ListenPath(vsockSocketName, vsock.MaxPort))
	assert.Len(t, longest, unixsock.MaxPath)
	assert.GreaterOrEqual(t, nameRoom("/var/lib/vmfs/vms"), maxName, "the default one has room for every name")
	assert.Negative(t, nameRoom("/"+strings.Repeat("d", 120)))

	// What has no room is refused before it is there.
	dir := t.TempDir()
	dir = filepath.Join(dir, strings.Repeat("d", nameRoom(filepath.Join(dir, "vms"))-2))
	h, err := Open(t.Context(), Options{StateDir: dir})
	require.NoError(t, err)
	defer h.Close()
	_, err = h.Create("a", Owner{})
	require.NoError(t, err)
	_, err = h.Create("ab", Owner{})
	assert.ErrorIs(t, err, ErrName)
	assert.ErrorContains(t, err, "longer than 1 characters")
}

func TestCreateDelete(t *testing.T) {
	h, _ := simHost(t)
	all := h.Events().Subscribe()
	defer all.Close()

	v, err := h.Create("web", Owner{UID: 7, GID: 8})
	require.NoError(t, err)
	assert.Equal(t, "web", v.Name())
	assert.Equal(t, hypervisor.StateCreated, v.State())
	assert.Equal(t, Owner{UID: 7, GID: 8, Mode: owner.DefaultMode}, v.Owner())
	assert.NotEmpty(t, v.UUID())
	got, ok := h.VM("web")
	assert.True(t, ok)
	assert.Same(t, v, got)

	_, err = h.Create("web", Owner{})
	assert.ErrorIs(t, err, ErrExists)
	_, err = h.Create("../web", Owner{})
	assert.ErrorIs(t, err, ErrName)
	assert.ErrorIs(t, h.Delete(within(t), "none"), ErrNotFound)

	second, err := h.Create("db", Owner{})
	require.NoError(t, err)
	assert.NotEqual(t, v.ID(), second.ID())
	assert.NotEqual(t, v.UUID(), second.UUID())
	assert.Equal(t, []*VM{second, v}, h.VMs())
	assertModes(t, h.dir)

	own := v.Events().Subscribe()
	require.NoError(t, h.Delete(within(t), "web"))
	assert.NoDirExists(t, v.Dir())
	_, ok = h.VM("web")
	assert.False(t, ok)
	assert.Equal(t, []*VM{second}, h.VMs())
	assert.ErrorIs(t, v.Start(within(t)), ErrNotFound)
	assert.ErrorIs(t, v.SetOwner(Owner{}), ErrNotFound)
	_, err = v.Watch(within(t), func(Status) bool { return false })
	assert.ErrorIs(t, err, ErrNotFound)
	assert.NoDirExists(t, v.Dir(), "a deleted VM writes nothing")

	assert.Equal(t, []string{"created", "created", "deleted"}, kinds(t, all, events.KindDeleted))
	assert.Equal(t, []string{"deleted"}, kinds(t, own, events.KindDeleted))
	_, err = own.Next(within(t))
	assert.Error(t, err, "the feed of a deleted VM has ended")

	again, err := h.Create("web", Owner{})
	require.NoError(t, err)
	assert.Greater(t, again.ID(), second.ID())
	entries, err := os.ReadDir(filepath.Join(h.dir, "vms"))
	require.NoError(t, err)
	assert.Len(t, entries, 2, "nothing is left aside")
}

func TestCreateAny(t *testing.T) {
	h, _ := simHost(t)
	create(t, h, "vm1", "")
	var mu sync.Mutex
	var wg sync.WaitGroup
	names := make(map[string]bool)
	for range 10 {
		wg.Go(func() {
			v, err := h.CreateAny(Owner{})
			if assert.NoError(t, err) {
				mu.Lock()
				defer mu.Unlock()
				names[v.Name()] = true
			}
		})
	}
	wg.Wait()
	assert.Len(t, names, 10)
	assert.True(t, names["vm0"])
	assert.True(t, names["vm10"])
	require.NoError(t, h.Delete(within(t), "vm3"))
	v, err := h.CreateAny(Owner{})
	require.NoError(t, err)
	assert.Equal(t, "vm3", v.Name())
}

func TestDeleteRefusedWhileItRuns(t *testing.T) {
	h, _ := simHost(t)
	v := started(t, h, "web", "")
	err := h.Delete(within(t), "web")
	assert.ErrorIs(t, err, hypervisor.ErrBusy)
	assert.EqualError(t, err, "machine: delete web: web is running: stop it first")
	require.NoError(t, v.Pause(within(t)))
	assert.ErrorIs(t, h.Delete(within(t), "web"), hypervisor.ErrBusy)
	require.NoError(t, v.Stop(within(t)))
	require.NoError(t, h.Delete(within(t), "web"))
}

func TestReopen(t *testing.T) {
	h, _ := simHost(t)
	v := create(t, h, "web", "memory=1G\nvcpus=2")
	require.NoError(t, v.SetOwner(Owner{UID: 1000, GID: 100, Mode: 0o4750}))
	create(t, h, "db", "")
	require.NoError(t, h.Delete(within(t), "db"))
	seq := lastSeq(t, v)
	require.NoError(t, h.Close())
	require.NoError(t, h.Close(), "a second Close does nothing")

	// What a crash may leave.
	vms := filepath.Join(h.dir, "vms")
	for _, left := range []string{".new-x-1", ".del-y-1/y", "web/snapshots/.new-s-1"} {
		require.NoError(t, os.MkdirAll(filepath.Join(vms, left), 0o700))
	}
	temporaries := []string{"web/.record.json123", "web/.config4", "web/run/.qemu.json5"}
	require.NoError(t, os.MkdirAll(filepath.Join(vms, "web/run"), 0o700))
	for _, left := range temporaries {
		require.NoError(t, os.WriteFile(filepath.Join(vms, left), []byte("half"), 0o600))
	}
	require.NoError(t, os.MkdirAll(filepath.Join(vms, "not a vm"), 0o700))

	h2 := open(t, h.dir)
	require.Len(t, h2.VMs(), 1)
	w := h2.VMs()[0]
	assert.Equal(t, v.Owner(), w.Owner())
	assert.Equal(t, Owner{UID: 1000, GID: 100, Mode: 0o750}, w.Owner())
	assert.Equal(t, v.UUID(), w.UUID())
	assert.Equal(t, v.ID(), w.ID())
	assert.Equal(t, v.Config().String(), w.Config().String())
	assert.Equal(t, hypervisor.StateCreated, w.State())
	assert.WithinDuration(t, v.Status().Created, w.Status().Created, 0)
	require.NoError(t, w.SetOwner(Owner{}))
	assert.Equal(t, seq+1, lastSeq(t, w), "event numbers go on")
	for _, left := range []string{".new-x-1", ".del-y-1", "web/snapshots/.new-s-1"} {
		assert.NoDirExists(t, filepath.Join(vms, left))
	}
	for _, left := range temporaries {
		assert.NoFileExists(t, filepath.Join(vms, left))
	}
	assert.DirExists(t, filepath.Join(vms, "not a vm"), "what is not ours is left alone")

	assert.ErrorIs(t, v.SetOwner(Owner{}), ErrClosed)
	assert.ErrorIs(t, v.Start(within(t)), ErrClosed)
	_, err := h.Create("x", Owner{})
	assert.ErrorIs(t, err, ErrClosed)
}

func lastSeq(t *testing.T, v *VM) uint64 {
	t.Helper()
	seq, _ := (&events.History{Path: v.history.Path}).Last()
	return seq
}

func TestTwoServers(t *testing.T) {
	h, _ := simHost(t)
	_, err := Open(within(t), Options{StateDir: h.dir})
	assert.ErrorIs(t, err, ErrLocked)
	var locked *LockedError
	require.ErrorAs(t, err, &locked)
	assert.Equal(t, os.Getpid(), locked.PID)
	assert.ErrorContains(t, err, fmt.Sprintf("pid %d", os.Getpid()))
	require.NoError(t, h.Close())
	open(t, h.dir)
}

func TestUnreadableFiles(t *testing.T) {
	h, _ := simHost(t)
	create(t, h, "good", "memory=1G")
	for _, name := range []string{"torn", "empty", "future", "missing", "badconfig"} {
		create(t, h, name, "memory=1G")
	}
	require.NoError(t, h.Close())
	put := func(name, file, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(h.dir, "vms", name, file), []byte(text), 0o600))
	}
	put("torn", recordFile, `{"format": 1, "id": 2, "uu`)
	put("empty", recordFile, "")
	put("future", recordFile, `{"format": 99, "id": 2, "uuid": "x", "phase": "down"}`)
	put("badconfig", configFile, "memory=1G\nno such key=1\n")
	require.NoError(t, os.Remove(filepath.Join(h.dir, "vms", "missing", recordFile)))

	h2 := open(t, h.dir)
	ids := make(map[uint64]bool)
	for _, v := range h2.VMs() {
		ids[v.ID()] = true
	}
	assert.Len(t, ids, 6, "every VM is there, with a number of its own")
	good, _ := h2.VM("good")
	assert.Empty(t, good.LastError())
	for _, name := range []string{"torn", "empty", "future", "missing"} {
		v, ok := h2.VM(name)
		require.True(t, ok, name)
		s := v.Status()
		assert.Equal(t, hypervisor.StateShutdown, s.State, name)
		assert.Equal(t, "record-unreadable", s.Reason, name)
		assert.Contains(t, v.LastError(), recordFile, name)
		assert.Equal(t, int64(1<<30), v.Config().VMConfig().MemoryBytes, "%s: the config is not lost with the record", name)
		require.NoError(t, v.Start(within(t)), name)
		assert.Empty(t, v.LastError(), name)
	}
	b, err := os.ReadFile(filepath.Join(h.dir, "vms", "torn", recordFile+".bad"))
	require.NoError(t, err)
	assert.Equal(t, `{"format": 1, "id": 2, "uu`, string(b), "the unreadable record is kept")

	bad, _ := h2.VM("badconfig")
	assert.Equal(t, "config-unreadable", bad.Status().Reason)
	assert.ErrorContains(t, bad.Start(within(t)), "config line 2")
	require.NoError(t, bad.SetConfig(within(t), "memory=2G", true))
	assert.NoError(t, bad.Start(within(t)))

	require.NoError(t, h2.Close())
	h3 := open(t, h.dir)
	torn, _ := h3.VM("torn")
	assert.Equal(t, hypervisor.StateRunning, torn.State())
}

// VMs' numbers end where the qids of their files have room for them.
func TestLastID(t *testing.T) {
	h, _ := simHost(t)
	create(t, h, "first", "")
	h.nextID.Store(MaxID - 1)
	last := create(t, h, "last", "")
	assert.EqualValues(t, MaxID, last.ID())
	_, err := h.Create("next", Owner{})
	assert.ErrorContains(t, err, "no number is left")
	require.NoError(t, h.Close())

	path := filepath.Join(last.Dir(), recordFile)
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	b = bytes.Replace(b, []byte(strconv.Itoa(MaxID)), []byte(strconv.Itoa(MaxID+1)), 1)
	require.NoError(t, os.WriteFile(path, b, 0o600))
	h = open(t, h.dir)
	last, ok := h.VM("last")
	require.True(t, ok)
	assert.Contains(t, last.LastError(), "id is 268435456, not one of 1 to 268435455")
	assert.LessOrEqual(t, last.ID(), uint64(MaxID))
}

func TestManyVMs(t *testing.T) {
	const n = 1000
	h, _ := simHost(t)
	begin := time.Now()
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := w; i < n; i += 8 {
				if _, err := h.Create(fmt.Sprintf("vm%04d", i), Owner{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d VMs made in %v", n, time.Since(begin))
	begin = time.Now()
	vms := h.VMs()
	require.Len(t, vms, n)
	for i, v := range vms {
		require.Equal(t, fmt.Sprintf("vm%04d", i), v.Name())
		require.Equal(t, hypervisor.StateCreated, v.Status().State)
	}
	listed := time.Since(begin)
	t.Logf("listed in %v", listed)
	assert.Less(t, listed, time.Second)
	require.NoError(t, h.Close())
	begin = time.Now()
	h = open(t, h.dir)
	require.Len(t, h.VMs(), n)
	t.Logf("loaded in %v", time.Since(begin))
	assert.Less(t, time.Since(begin), 10*time.Second)
}

func TestBackends(t *testing.T) {
	h, _ := simHost(t)
	b := h.Backend(within(t), hypervisor.TypeSim)
	assert.NoError(t, b.Err)
	assert.NotEmpty(t, b.Version)
	assert.NotEmpty(t, b.Binary)
	assert.ErrorIs(t, h.Backend(within(t), "none").Err, hypervisor.ErrNotSupported)
	v := create(t, h, "web", "hypervisor=cloud-hypervisor")
	err := v.Start(within(t))
	assert.ErrorIs(t, err, hypervisor.ErrNotSupported)
	assert.Equal(t, hypervisor.StateCreated, v.State())
}

func TestOpenErrors(t *testing.T) {
	_, err := Open(within(t), Options{})
	assert.ErrorContains(t, err, "no state directory")
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err = Open(within(t), Options{StateDir: file})
	assert.ErrorContains(t, err, file)

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = Open(ctx, Options{StateDir: t.TempDir()})
	if err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("Open with an ended context: %v", err)
	}
}
