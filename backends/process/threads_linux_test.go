package process_test

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"vmfs/backends/process"
)

// leaderEnds makes this program, started anew, one whose first thread ends and whose
// others go on until its standard input does.
const leaderEnds = "VMFS_TEST_LEADER_ENDS"

func init() {
	if os.Getenv(leaderEnds) == "" {
		return
	}
	runtime.LockOSThread() // init runs on the first thread
	go func() {
		_, _ = os.Stdin.Read(make([]byte, 1))
		os.Exit(0)
	}()
	os.Stdout.WriteString("ready\n")
	unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
}

// A process whose first thread has ended has not ended as long as others run, though
// it looks like a zombie.
func TestOtherThreads(t *testing.T) {
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), leaderEnds+"=1")
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	_, err = bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	p, err := process.Find(cmd.Process.Pid)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(p.PID) + "/stat")
		return err == nil && bytes.Contains(b, []byte(") Z "))
	}, 30*time.Second, time.Millisecond)

	assert.True(t, p.Alive())
	found, err := process.Find(p.PID)
	require.NoError(t, err)
	assert.Equal(t, p, found)
	require.NoError(t, p.Signal(syscall.Signal(0)))
	over := make(chan error, 1)
	go func() { over <- p.Wait(within(t)) }()
	select {
	case err := <-over:
		t.Fatalf("it has not ended: %v", err)
	case <-time.After(20 * time.Millisecond): // it would have returned at once
	}
	require.NoError(t, in.Close())
	require.NoError(t, <-over)
	assert.False(t, p.Alive())
}
