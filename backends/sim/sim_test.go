package sim_test

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/backends/sim"
)

// start starts a VM in a world of its own, with the extras given as key, value.
func start(t *testing.T, c sim.Config, extras ...string) (*sim.Handle, hypervisor.VMConfig) {
	t.Helper()
	dir := t.TempDir()
	config := hypervisor.VMConfig{
		Name: "web", UUID: "7d1c9a6e-0000-4000-8000-000000000001",
		MemoryBytes: 256 << 20, HotplugBytes: 256 << 20, VsockCID: 42,
		SerialLogPath: filepath.Join(dir, "serial.log"), LogPath: filepath.Join(dir, "log"),
		Extras: map[string]string{"qemu.accel": "of another back end"},
	}
	for i := 0; i < len(extras); i += 2 {
		config.Extras[extras[i]] = extras[i+1]
	}
	s := sim.New(c)
	t.Cleanup(s.World().End)
	pid, hv, err := s.StartVM(t.Context(), nil, "", filepath.Join(dir, s.SocketName()), config)
	require.NoError(t, err)
	assert.Zero(t, pid)
	t.Cleanup(func() { assert.NoError(t, hypervisor.CloseHandle(hv)) })
	return hv.(*sim.Handle), config
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(b)
}

func info(t *testing.T, hv hypervisor.Hypervisor) hypervisor.VMInfo {
	t.Helper()
	i, err := hv.GetVMInfo(t.Context())
	require.NoError(t, err)
	return *i
}

func TestLife(t *testing.T) {
	hv, config := start(t, sim.Config{})
	assert.Equal(t, hypervisor.StateRunning, info(t, hv).State)
	assert.Contains(t, read(t, config.SerialLogPath), sim.ReadyLine)
	require.NoError(t, hv.DeleteVM(t.Context()))
	_, err := hv.GetVMInfo(t.Context())
	require.ErrorIs(t, err, hypervisor.ErrHypervisorNotRunning)
	var kinds []hypervisor.EventKind
	for e := range hv.Events() {
		kinds = append(kinds, e.Kind)
		assert.False(t, e.Time.IsZero())
	}
	assert.Equal(t, []hypervisor.EventKind{
		hypervisor.EventRunning, hypervisor.EventPowerdown, hypervisor.EventShutdown,
	}, kinds)
	assert.Contains(t, read(t, config.LogPath), "guest-shutdown")
}

func TestWorldOutlivesServers(t *testing.T) {
	world := sim.NewWorld()
	dir := t.TempDir()
	socket := filepath.Join(dir, "sim.sock")
	first := sim.New(sim.Config{World: world})
	_, hv, err := first.StartVM(t.Context(), nil, "", socket, hypervisor.VMConfig{Name: "web", UUID: "7d1c9a6e-0000-4000-8000-000000000002"})
	require.NoError(t, err)
	require.NoError(t, hv.Pause(t.Context()))
	require.NoError(t, hypervisor.CloseHandle(hv))

	again, err := sim.New(sim.Config{World: world}).World().Client(socket)
	require.NoError(t, err)
	assert.Equal(t, hypervisor.StatePaused, info(t, again).State)
	id, err := again.(hypervisor.Identifier).Identify(t.Context())
	require.NoError(t, err)
	assert.Equal(t, hypervisor.Identity{Name: "web", UUID: "7d1c9a6e-0000-4000-8000-000000000002"}, id)

	_, err = sim.NewWorld().Client(socket)
	require.ErrorIs(t, err, hypervisor.ErrHypervisorNotRunning, "another process knows nothing of it")

	_, _, err = first.StartVM(t.Context(), nil, "", socket, hypervisor.VMConfig{Name: "db"})
	require.ErrorIs(t, err, hypervisor.ErrBusy)
	assert.ErrorContains(t, err, "web")
	world.End()
	_, err = world.Client(socket)
	require.ErrorIs(t, err, hypervisor.ErrHypervisorNotRunning)
	assert.Empty(t, world.VMs())
}

func TestThousandIdleVMsHaveNoGoroutines(t *testing.T) {
	const n = 1500
	s := sim.New(sim.Config{})
	defer s.World().End()
	dir := t.TempDir()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	goroutines := runtime.NumGoroutine()
	handles := make([]hypervisor.Hypervisor, n)
	for i := range n {
		name := "vm" + strconv.Itoa(i)
		_, hv, err := s.StartVM(context.Background(), nil, "", filepath.Join(dir, name, "sim.sock"), hypervisor.VMConfig{Name: name})
		require.NoError(t, err)
		handles[i] = hv
	}
	assert.LessOrEqual(t, runtime.NumGoroutine(), goroutines)
	runtime.GC()
	runtime.ReadMemStats(&after)
	assert.Less(t, (int64(after.HeapAlloc)-int64(before.HeapAlloc))/n, int64(8<<10), "bytes a VM")
	assert.Len(t, s.World().VMs(), n)
	runtime.KeepAlive(handles)
}

func BenchmarkStartAndKill(b *testing.B) {
	s := sim.New(sim.Config{})
	socket := filepath.Join(b.TempDir(), "sim.sock")
	b.ReportAllocs()
	for b.Loop() {
		_, hv, err := s.StartVM(b.Context(), nil, "", socket, hypervisor.VMConfig{Name: "web"})
		if err != nil {
			b.Fatal(err)
		}
		if err := hv.(hypervisor.Killer).Kill(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
