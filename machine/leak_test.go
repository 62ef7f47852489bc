package machine

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/machine/console/consoletest"
)

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skipf("open files cannot be counted here: %v", err)
	}
	return len(entries)
}

// settles waits until count is at most most.
func settles(t *testing.T, what string, most int, count func() int) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for count() > most {
		if time.Now().After(deadline) {
			b := make([]byte, 1<<20)
			t.Fatalf("%s: %d, were %d at first\n%s", what, count(), most, b[:runtime.Stack(b, true)])
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Lives of VMs and of servers leave no goroutine and no open file behind.
func TestNothingLeaks(t *testing.T) {
	dir := stateDir(t)
	onlyFake(t, dir)
	vzHost(t, dir).Close()
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	for range 3 {
		h := vzHost(t, dir)
		v, ok := h.VM("web")
		if !ok {
			v = started(t, h, "web", "")
		}
		r := v.OpenConsole()
		say(t, v, "hello")
		consoletest.ReadUntil(t, within(t), r, "hello")
		_, err := v.WriteConsole(within(t), []byte("x\n"))
		require.NoError(t, err)
		require.NoError(t, r.Close())
		sub := v.Events().Subscribe()
		require.NoError(t, v.Pause(within(t)))
		sub.Close()
		require.NoError(t, v.Resume(within(t)))
		require.NoError(t, h.Close())
	}
	h := vzHost(t, dir)
	v, _ := h.VM("web")
	require.NoError(t, v.Stop(within(t)))
	require.NoError(t, v.Start(within(t)))
	require.NoError(t, v.Kill(within(t)))
	require.NoError(t, h.Delete(within(t), "web"))
	require.NoError(t, h.Close())
	settles(t, "goroutines", goroutines, runtime.NumGoroutine)
	settles(t, "open files", files, func() int { return openFiles(t) })
}

func TestManyKills(t *testing.T) {
	h, _ := simHost(t)
	v := create(t, h, "web", "")
	for range 20 {
		require.NoError(t, v.Start(within(t)))
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				err := v.Kill(within(t))
				if err != nil {
					var state *StateError
					assert.ErrorAs(t, err, &state, "somebody else was first")
				}
			})
		}
		wg.Wait()
		assert.Equal(t, hypervisor.StateShutdown, v.State())
		require.NoError(t, v.awaitEnd(within(t)))
	}
}

// Whatever a record says, the server starts and the VM is there.
func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"format":1,"id":1,"uuid":"u","phase":"down","owner":{"uid":1,"gid":1,"mode":"0700"}}`), []byte("memory=1G\n"), []byte("1 2026 web running state=running\n"))
	f.Add([]byte(`{"format":1,"id":1,"uuid":"u","phase":"running","backend":"sim","process":{"pid":1,"start":"x"}}`), []byte(""), []byte("x"))
	f.Add([]byte(`{"format":1,"id":18446744073709551615,"uuid":"u","phase":"restoring"}`), []byte("\x00"), []byte("\n\n"))
	f.Fuzz(func(t *testing.T, record, config, events []byte) {
		registerSim()
		dir := t.TempDir()
		vm := filepath.Join(dir, "vms", "web")
		require.NoError(t, os.MkdirAll(vm, 0o700))
		for name, b := range map[string][]byte{recordFile: record, configFile: config, historyFile: events} {
			require.NoError(t, os.WriteFile(filepath.Join(vm, name), b, 0o600))
		}
		h, err := Open(context.Background(), Options{StateDir: dir, Timeouts: Timeouts{Adopt: time.Millisecond}})
		require.NoError(t, err)
		defer h.Close()
		v, ok := h.VM("web")
		require.True(t, ok)
		v.Status()
		v.Config()
		_, err = v.History()
		require.NoError(t, err)
		assert.NotZero(t, v.ID())
		assert.NotEmpty(t, v.UUID())
	})
}
