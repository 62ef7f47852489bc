package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// begin runs a client command that its server may not live to answer.
func (s *server) begin(args ...string) (wait func()) {
	s.t.Helper()
	cmd := exec.Command("vmfs", args...)
	cmd.Env = append(os.Environ(), "VMFS_ADDR="+s.addr)
	require.NoError(s.t, cmd.Start())
	return func() { _ = cmd.Wait() } // that it fails is to be expected
}

// TestKilledInSnapshot kills the server while the VMM writes a snapshot, and at some moments
// of a restore. The VM goes on then, and there is no snapshot; or it is there as it was saved, or there is
// none.
func TestKilledInSnapshot(t *testing.T) {
	t.Parallel() // with the other tests that wait for a guest
	s := newServer(t)
	s.start()
	s.makeVM("web", guestConfig(t))
	s.must("write", "web/ctl", "start")
	s.follow("web/console").expect(t, "vmfs guest ready")
	pid := s.pid("web")

	// The VMM is stopped as soon as there is a file of it, and so are both.
	var ended func()
	require.Eventually(t, func() bool {
		ended = s.begin("write", "web/ctl", "snapshot", "one")
		require.Eventually(t, func() bool {
			files, err := filepath.Glob(filepath.Join(s.state, "vms", "web", "snapshots", "*", "*"))
			return err == nil && len(files) > 0
		}, patience, time.Millisecond)
		require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
		if strings.Contains(s.must("cat", "web/info"), "busy=snapshot") {
			return true
		}
		require.NoError(t, syscall.Kill(pid, syscall.SIGCONT)) // it was faster
		ended()
		s.must("rmdir", "web/snapshots/one")
		return false
	}, 4*patience, time.Millisecond, "a snapshot is never under way")
	s.kill()
	ended()
	s.start()
	require.NoError(t, syscall.Kill(pid, syscall.SIGCONT))
	console := s.follow("web/console")
	s.must("write", "web/console", "T=kept; echo goes$((1+1))on")
	console.expect(t, "goes2on")
	assert.Equal(t, "running", s.must("cat", "web/state"))
	assert.Equal(t, pid, s.pid("web"))
	assert.Empty(t, s.must("ls", "web/snapshots"))

	s.must("write", "web/ctl", "snapshot", "two")
	s.must("write", "web/ctl", "kill")
	found := 0
	for i := range 4 {
		ended := s.begin("write", "web/ctl", "restore", "two")
		require.Eventually(t, func() bool { return len(s.vmms()) == 1 }, patience, time.Millisecond)
		time.Sleep(time.Duration(i) * 100 * time.Millisecond) // any moment will do
		s.kill()
		ended()
		s.start()
		switch state := s.must("cat", "web/state"); state {
		case "running", "paused":
			found++
			assert.Equal(t, []int{s.pid("web")}, s.vmms(), "the VMM is the one that is known")
			s.must("write", "web/ctl", "kill")
		default:
			assert.Equal(t, "shutdown", state)
		}
		require.Eventually(t, func() bool { return len(s.vmms()) == 0 }, patience, 20*time.Millisecond)
		assert.Equal(t, "two", s.must("ls", "web/snapshots"))
	}
	t.Logf("%d of 4 restores survived their server", found)
	s.must("write", "web/ctl", "restore", "two")
	s.must("write", "web/ctl", "resume")
	console = s.follow("web/console")
	s.must("write", "web/console", "echo is$((1+1)) $T")
	console.expect(t, "is2 kept")
	s.must("write", "web/ctl", "kill")
}
