package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestFullDisk fills the state directory's file system: what cannot be kept is
// refused, nothing that was kept is lost, and running VMs go on.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root mounts a small file system: run the tests with sudo")
	}
	s := newServer(t)
	require.NoError(t, os.Mkdir(s.state, 0o700))
	require.NoError(t, syscall.Mount("vmfs-test", s.state, "tmpfs", 0, "size=2m"))
	t.Cleanup(func() { assert.NoError(t, syscall.Unmount(s.state, syscall.MNT_DETACH)) })
	s.start()
	s.makeVM("web", guestConfig(t))
	s.makeVM("other", guestConfig(t))
	s.must("write", "web/ctl", "start")
	before := s.must("cat", "other/config")

	filler := filepath.Join(s.state, "filler")
	err := os.WriteFile(filler, make([]byte, 4<<20), 0o600)
	require.ErrorIs(t, err, syscall.ENOSPC)

	_, text, status := s.vmfs(strings.Repeat("# a long comment that nobody keeps\n", 10)+"vcpus=2\nargs="+strings.Repeat("x", 8000)+"\n", "write", "-a", "other/config")
	assert.Equal(t, exitFailure, status)
	assert.Contains(t, text, "no space left on device")
	assert.Equal(t, before, s.must("cat", "other/config"))
	assert.Contains(t, s.refused("mkdir", "third"), "no space left on device")
	assert.Contains(t, s.refused("write", "other/ctl", "start"), "no space left on device")
	assert.Len(t, s.vmms(), 1, "no VMM was started that could not be recorded")
	assert.Equal(t, []string{"other", "web"}, vmsOf(s))
	s.must("write", "web/ctl", "pause")
	s.must("write", "web/ctl", "resume")

	pid := s.pid("web")
	s.kill()
	s.start()
	assert.Equal(t, pid, s.pid("web"), "a server that restarts on a full disk finds the VM")
	assert.Equal(t, before, s.must("cat", "other/config"))
	require.NoError(t, os.Remove(filler))
	s.must("write", "other/ctl", "start")
	for _, name := range []string{"web", "other"} {
		s.must("write", name+"/ctl", "kill")
	}
}
