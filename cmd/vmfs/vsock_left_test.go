package main

import (
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestVsockLeftDevice has devices that nobody expects to be there: of a VM that died
// while no server ran, and of one whose socket somebody has removed. Each makes
// room for another.
func TestVsockLeftDevice(t *testing.T) {
	t.Parallel() // with the other tests that wait for a guest
	s := vsockVM(t)
	s.kill()

	// Stopped, it cannot find out that its QEMU is gone.
	left, vmm := s.device(), s.vmms()
	require.Len(t, vmm, 1)
	require.NoError(t, syscall.Kill(left, syscall.SIGSTOP))
	require.NoError(t, syscall.Kill(vmm[0], syscall.SIGKILL))
	ended(t, vmm[0])
	s.start()
	assert.Equal(t, "shutdown", s.must("cat", "web/state"))
	s.must("write", "web/ctl", "start")
	ended(t, left)
	assert.Len(t, s.devices(), 1)
	assert.NotEqual(t, left, s.device())
	s.awaitVsock()

	hidden := s.device()
	s.kill()
	require.NoError(t, os.Remove(s.hostSocket("web")))
	s.start()
	ended(t, hidden)
	assert.NotEqual(t, hidden, s.device())
	s.awaitVsock()
	require.Eventually(t, func() bool { return len(s.devices()) == 1 }, patience, 20*time.Millisecond)

	pid := s.device()
	s.must("write", "web/ctl", "kill")
	ended(t, pid)
	assert.NoFileExists(t, s.hostSocket("web"))
}
