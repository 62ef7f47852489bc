package cloudhypervisor_test

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/cloudhypervisor"
	"vmfs/backends/companion"
	"vmfs/backends/hypervisor"
	"vmfs/backends/rundir"
	"vmfs/backends/serial"
	"vmfs/guest"
	"vmfs/guest/guesttest"
)

// TestConsoleOutlives has the guest of a real Cloud Hypervisor print much at once, be
// typed at after the process that holds its console has died, and panic while no server
// runs.
func TestConsoleOutlives(t *testing.T) {
	s := realStarter(t)
	const most = 3 * time.Minute
	kernel, initrd := guesttest.Fast(t, guest.Options{})
	dir, err := os.MkdirTemp("/tmp", "vmfs")
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "run", cloudhypervisor.SocketName)
	config := hypervisor.VMConfig{
		Name: "web", UUID: "5a0e6d3c-1111-4222-8333-444455556666", MemoryBytes: 256 << 20,
		KernelPath: kernel, InitrdPath: initrd, KernelArgs: "quiet no_timer_check",
		SerialLogPath: filepath.Join(dir, "console.log"), LogPath: filepath.Join(dir, "log"),
	}
	pid, hv, err := s.StartVM(t.Context(), nil, "", socket, config)
	require.NoError(t, err)
	defer func() { _ = syscall.Kill(pid, syscall.SIGKILL) }()
	defer func() { _ = hypervisor.CloseHandle(hv) }()

	printed := func() string {
		b, err := os.ReadFile(config.SerialLogPath)
		require.NoError(t, err)
		return strings.ReplaceAll(string(b), "\r", "")
	}
	prints := func(text string) {
		t.Helper()
		require.Eventually(t, func() bool { return strings.Contains(printed(), text) }, most, 10*time.Millisecond,
			"the guest does not print %q", text)
	}
	run, err := new(rundir.Kind).Of(socket)
	require.NoError(t, err)
	beside := serial.In(run, &config)
	holder := func() *companion.Companion {
		t.Helper()
		p, err := serial.FindOrStart(t.Context(), beside)
		require.NoError(t, err)
		require.True(t, p.Adopted, "nobody holds the console")
		return p
	}
	types := func(line string) {
		t.Helper()
		c, err := serial.Open(t.Context(), beside.Console)
		require.NoError(t, err)
		defer c.Close()
		_, err = io.WriteString(c, line+"\r")
		require.NoError(t, err)
		require.Eventually(t, c.Drained, most, time.Millisecond)
	}
	prints("vmfs guest ready")
	types("seq 1 3000 | sed 's/^/line /'; echo do''ne")
	prints("line 3000\ndone\n") // also the end, of which Cloud Hypervisor may keep some
	assert.Equal(t, 3000, strings.Count(printed(), "\nline "))

	first := holder()
	require.NoError(t, first.Signal(syscall.SIGKILL))
	require.NoError(t, first.Wait(t.Context()))
	types("echo af''ter")
	prints("after\n")
	second := holder()
	assert.NotEqual(t, first.PID, second.PID)

	types("(sleep 2; echo c > /proc/sysrq-trigger) &")
	require.NoError(t, hypervisor.CloseHandle(hv))
	prints("end Kernel panic - not syncing: sysrq triggered crash ]---\n")
	assert.Equal(t, second.PID, holder().PID)
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	require.NoError(t, second.Wait(t.Context()))
}
