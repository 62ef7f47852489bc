package qemu

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/companion"
	"vmfs/backends/hypervisor"
	"vmfs/backends/qemu/vsockdev"
)

// TestNothingLeaks has starts, restores and snapshots fail, at several of their
// steps, and then looks for descriptors, goroutines and processes.
func TestNothingLeaks(t *testing.T) {
	s := newTestStarter(t)
	disk := sparse(t, filepath.Join(t.TempDir(), "disk"), mib)
	dir := shortDir(t)
	config := bare(dir)
	config.Disks = []hypervisor.DiskConfig{{Path: disk}}
	config.VsockCID, config.VsockSocket = 77, filepath.Join(dir, "vsock.sock")
	socket := filepath.Join(dir, SocketName)
	ended := func(pid int, hv hypervisor.Hypervisor, err error) {
		t.Helper()
		require.Error(t, err)
		require.True(t, hv == nil)
		expectNothing(t, dir)
	}
	v := startTest(t, s, dir, config)
	good, damaged := filepath.Join(t.TempDir(), "good"), filepath.Join(t.TempDir(), "damaged")
	for _, snap := range []string{good, damaged} {
		require.NoError(t, v.Snapshot(testContext(t), snap))
	}
	v.end()
	require.NoError(t, v.VM.dir.Clear())
	manifest := filepath.Join(damaged, manifestFile)
	b, err := os.ReadFile(manifest)
	require.NoError(t, err)
	// A QEMU of another machine refuses the state. One of more memory does not: from 9.0 on it takes it.
	other := regexp.MustCompile(`("machine": "[a-z0-9-]+-)[0-9.]+"`).ReplaceAll(b, []byte(`${1}7.1"`))
	require.NotEqual(t, b, other)
	require.NoError(t, os.WriteFile(manifest, other, 0o600))

	round := func() {
		t.Helper()
		bad := config
		bad.Extras = map[string]string{"qemu.cpu": "abacus"}
		ended(s.StartVM(testContext(t), nil, "", socket, bad))
		for _, after := range []time.Duration{0, 15, 40, 80} {
			ctx, cancel := context.WithTimeout(context.Background(), after*time.Millisecond)
			pid, hv, err := s.StartVM(ctx, nil, "", socket, config)
			cancel()
			if err == nil { // it was fast
				vm := hv.(*VM)
				require.NoError(t, vm.Child.Kill())
				require.NoError(t, vm.Close())
				require.NoError(t, vm.dir.Clear())
				continue
			}
			ended(pid, hv, err)
		}
		s.startDevice = func(context.Context, vsockdev.Config, bool) (*companion.Companion, error) {
			return nil, errors.New("not today")
		}
		ended(s.StartVM(testContext(t), nil, "", socket, config))
		ended(s.RestoreVM(testContext(t), nil, "", socket, good))
		s.startDevice = startDevice
		ended(s.RestoreVM(testContext(t), nil, "", socket, damaged))
		ended(s.RestoreVM(testContext(t), nil, "", socket, t.TempDir()))
		assert.Equal(t, []string{"disk"}, bases(listing(t, filepath.Dir(disk))))

		_, hv, err := s.StartVM(testContext(t), nil, "", socket, config)
		require.NoError(t, err)
		vm := hv.(*VM)
		require.Error(t, vm.Snapshot(testContext(t), filepath.Join(disk, "no directory")))
		ctx, cancel := context.WithCancel(testContext(t))
		cancel()
		require.Error(t, vm.Snapshot(ctx, filepath.Join(t.TempDir(), "snap")))
		_, err = vm.OpenConsole(ctx)
		require.Error(t, err)
		require.NoError(t, vm.Child.Kill())
		require.NoError(t, vm.Close())
		require.NoError(t, vm.dir.Clear())
	}
	held := func() int {
		fds, err := os.ReadDir("/proc/self/fd")
		require.NoError(t, err)
		return len(fds)
	}
	round()
	time.Sleep(200 * time.Millisecond) // for what ends a moment after its QEMU
	fds, goroutines := held(), runtime.NumGoroutine()
	for range 3 {
		round()
	}
	for end := time.Now().Add(patience); held() > fds || runtime.NumGoroutine() > goroutines; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d descriptors, there were %d; %d goroutines, there were %d:\n%s", held(), fds,
				runtime.NumGoroutine(), goroutines, stacks[:runtime.Stack(stacks, true)])
		}
	}
}
