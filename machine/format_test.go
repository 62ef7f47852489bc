package machine

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
)

// oldState copies a kept state directory: it was in another place when it was written.
func oldState(t *testing.T, name string) string {
	t.Helper()
	dir, from := stateDir(t), filepath.Join("testdata", name)
	require.NoError(t, os.CopyFS(filepath.Join(dir, "vms"), os.DirFS(filepath.Join(from, "vms"))))
	return dir
}

// State directories of earlier servers are taken into use as they are.
func TestFormat1(t *testing.T) {
	registerSim()
	dir := oldState(t, "format1")
	h := open(t, dir)
	vms := make(map[string]*VM)
	for _, v := range h.VMs() {
		vms[v.Name()] = v
		assert.Empty(t, v.LastError(), v.Name())
		assert.Equal(t, Owner{Mode: 0o700}, v.Owner(), v.Name())
	}
	require.Len(t, vms, 5)
	for name, want := range map[string]struct {
		id      uint64
		uuid    string
		backend hypervisor.Type
		state   hypervisor.VMState
		reason  string
		exit    string
		events  int
	}{
		"plain": {1, "4bab509b", hypervisor.TypeSim, hypervisor.StateCreated, "", "", 2},
		"web":   {2, "ce60", hypervisor.TypeSim, hypervisor.StateShutdown, "", "stopped", 10},
		"qemu":  {3, "30e967a3", hypervisor.TypeQEMU, hypervisor.StateShutdown, "", "killed", 9},
		"lost":  {4, "bcd6", hypervisor.TypeQEMU, hypervisor.StateShutdown, "lost", "the VMM ended while no server ran", 6},
		"gone":  {5, "c80f", hypervisor.TypeSim, hypervisor.StateShutdown, "lost", "the VMM ended while no server ran", 6},
	} {
		v, st := vms[name], vms[name].Status()
		assert.Equal(t, want.id, v.ID(), name)
		assert.Contains(t, v.UUID(), want.uuid, name)
		assert.Equal(t, want.backend, st.Backend, name)
		assert.Equal(t, want.state, st.State, name)
		assert.Equal(t, want.reason, st.Reason, name)
		assert.Contains(t, st.LastExit, want.exit, name)
		lines, err := v.History()
		require.NoError(t, err)
		assert.Len(t, lines, want.events, name)
	}
	assert.Equal(t, "hypervisor=sim\nvcpus=2\nmemory=1G\nhotplug=1G\n", vms["plain"].Config().String())
	assert.Contains(t, vms["web"].Config().String(), "net=user,forward:tcp::2222:22\nvsock.cid=auto\n")
	assert.EqualValues(t, 1000, vms["web"].VsockCID(), "what was picked is kept")

	info, err := vms["qemu"].SnapshotInfo("one")
	require.NoError(t, err)
	assert.Equal(t, hypervisor.TypeQEMU, info.Backend)
	assert.EqualValues(t, 16<<20, info.MemoryTarget)

	// A simulated one goes on from its snapshot.
	web := vms["web"]
	names, err := web.Snapshots()
	require.NoError(t, err)
	require.Equal(t, []string{"one"}, names)
	r := web.OpenConsole()
	defer r.Close()
	b := make([]byte, 100)
	n, err := r.Read(within(t), b)
	require.NoError(t, err)
	assert.Contains(t, string(b[:n]), "sim")
	require.NoError(t, web.Restore(within(t), "one"))
	assert.Equal(t, hypervisor.StatePaused, web.State())
	assert.EqualValues(t, 768<<20, web.Status().MemoryTarget)
	require.NoError(t, web.Resume(within(t)))

	// What is written from now on is the format of now.
	b, err = os.ReadFile(filepath.Join(web.Dir(), recordFile))
	require.NoError(t, err)
	assert.Contains(t, string(b), "\"format\": 2,\n")
	assert.Contains(t, string(b), "\"hypervisor\": \"sim\",\n")
	assert.NotContains(t, string(b), "backend")
	require.NoError(t, h.Close())
	h = open(t, dir)
	web, _ = h.VM("web")
	assert.Equal(t, hypervisor.StateRunning, web.State())
}
