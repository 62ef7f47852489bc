package hypervisortest

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
)

// testDiskSize lets a start make one image and grow another, and then a guest's disks
// grow while it runs. The image that a start would have to shrink stays as it is.
func (s *suite) testDiskSize(t *testing.T) {
	if _, ok := s.vm(t).Handle.(hypervisor.DiskGrower); !ok {
		t.Skip("the back end cannot make a disk larger")
	}
	require.NotNil(t, s.b.DiskSize, "Backend.DiskSize of a back end that can make a disk larger")
	const first, second = 16 << 20, 24 << 20
	dir := s.dir(t)
	config := s.config(t, dir)
	at := len(config.Disks)
	config.Disks = append(config.Disks,
		hypervisor.DiskConfig{Path: filepath.Join(dir, "made"), Size: first, Format: hypervisor.DiskRaw},
		hypervisor.DiskConfig{Path: filepath.Join(dir, "grown"), Size: first})
	made, grown := config.Disks[at].Path, config.Disks[at+1].Path
	require.NoError(t, os.WriteFile(grown, []byte("content"), 0o600))

	pid, hv, err := s.b.Starter.StartVM(s.ctx(t), s.b.Paths, "", s.socket(dir), config)
	require.NoError(t, err, "StartVM with a disk to be made and one to grow")
	vm := s.adopt(t, pid, hv, s.socket(dir), config)
	defer vm.discard(t)
	vm.ready(t)
	vm.seesDisk(t, at, first)
	vm.seesDisk(t, at+1, first)

	g := hv.(hypervisor.DiskGrower)
	require.NoError(t, g.GrowDisk(s.ctx(t), at, second), "GrowDisk")
	vm.seesDisk(t, at, second)
	require.NoError(t, g.GrowDisk(s.ctx(t), at, second), "GrowDisk to the size that it has")
	for what, try := range map[string]struct {
		disk  int
		bytes int64
	}{"a smaller size": {at, first}, "a disk that is not there": {at + 2, second}, "a disk below the first": {-1, second}} {
		assert.ErrorIs(t, g.GrowDisk(s.ctx(t), try.disk, try.bytes), hypervisor.ErrInvalid, "GrowDisk of %s", what)
	}
	vm.seesDisk(t, at, second)
	vm.seesDisk(t, at+1, first)
	assert.Equal(t, int64(second), fileSize(t, made), "the image of the disk that grew")
	vm.expectState(t, hypervisor.StateRunning)
	require.NoError(t, vm.kill(s.ctx(t)))
	vm.expectGone(t)
	assert.ErrorIs(t, g.GrowDisk(s.ctx(t), at, second), hypervisor.ErrHypervisorNotRunning, "GrowDisk of a VMM that is gone")

	pid, hv, err = s.b.Starter.StartVM(s.ctx(t), s.b.Paths, "", s.socket(dir), config)
	if !assert.ErrorIs(t, err, hypervisor.ErrInvalid, "StartVM with a size below the image's") && err == nil {
		s.adopt(t, pid, hv, s.socket(dir), config).discard(t)
	}
	assert.Equal(t, int64(second), fileSize(t, made), "the image that should shrink")
	b, err := os.ReadFile(grown)
	require.NoError(t, err)
	assert.Equal(t, "content", string(b[:len("content")]), "what an image had before it grew")
}

// seesDisk waits until the guest says that its disk has that many bytes.
func (vm *VM) seesDisk(t testing.TB, disk int, bytes int64) {
	t.Helper()
	typed, want := vm.suite.b.DiskSize(disk, bytes)
	var got string
	for end := time.Now().Add(vm.suite.b.Timeout); time.Now().Before(end); {
		conn, ok := vm.openConsole(t)
		require.True(t, ok, "a console, to ask the guest at")
		var err error
		got, err = converse(conn, typed, want, 3*time.Second)
		require.NoError(t, conn.Close())
		if err == nil {
			return
		}
	}
	t.Fatalf("the guest does not see %d bytes of disk %d: typed %q and read %q, without %q", bytes, disk, typed, got, want)
}

func fileSize(t testing.TB, path string) int64 {
	t.Helper()
	fi, err := os.Stat(path)
	require.NoError(t, err)
	return fi.Size()
}
