package process_test

import (
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"vmfs/backends/process"
)

// A server that ignores or blocks signals, as one started by nohup does, has VMMs that
// do neither.
func TestStartWithoutIgnoredSignals(t *testing.T) {
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE, syscall.SIGUSR1)
	defer signal.Reset(syscall.SIGHUP, syscall.SIGPIPE, syscall.SIGUSR1)
	ignore := [4]uint64{1} // a sigaction; of a signal that package signal leaves alone
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, 32, uintptr(unsafe.Pointer(&ignore)), 0, 8, 0, 0)
	require.Zero(t, errno)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var set, old unix.Sigset_t
	set.Val[0] = 1<<(unix.SIGTERM-1) | 1<<(unix.SIGUSR2-1)
	require.NoError(t, unix.PthreadSigmask(unix.SIG_BLOCK, &set, &old))
	defer unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil)

	bare := exec.Command("sleep", "600")
	require.NoError(t, bare.Start())
	defer bare.Wait()
	defer bare.Process.Kill()
	s := status(t, bare.Process.Pid)
	require.NotEqual(t, "0000000000000000", s["SigIgn"], "a bare child ignores what its parent does")
	require.NotEqual(t, "0000000000000000", s["SigBlk"], "and blocks what it does")

	c, _ := shell(t, "exec sleep 600", nil)
	s = status(t, c.PID)
	assert.Equal(t, "0000000000000000", s["SigIgn"])
	assert.Equal(t, "0000000000000000", s["SigBlk"])
	require.NoError(t, c.Signal(syscall.SIGHUP))
	ended(t, c)
	assert.Equal(t, "signal: hangup", c.How())
}

func TestStartGainsNoPrivileges(t *testing.T) {
	c, _ := shell(t, "exec sleep 600", nil)
	assert.Equal(t, "1", status(t, c.PID)["NoNewPrivs"])
	assert.Equal(t, "1", status(t, c.PID)["Threads"])
}

func TestStartAsUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can start a process as another user")
	}
	c, _ := shell(t, "exec sleep 600", func(c *process.Command) {
		c.User = &process.User{UID: 65533, GID: 65532, Groups: []uint32{65530, 65531}}
	})
	s := status(t, c.PID)
	assert.Equal(t, "65533 65533 65533 65533", s["Uid"])
	assert.Equal(t, "65532 65532 65532 65532", s["Gid"])
	assert.Equal(t, "65530 65531", s["Groups"])
	assert.Equal(t, "0000000000000000", s["CapEff"])
	assert.Equal(t, "0000000000000000", s["CapPrm"])
	c, _ = shell(t, "exec sleep 600", func(c *process.Command) { c.User = &process.User{UID: 1, GID: 1} })
	assert.Empty(t, status(t, c.PID)["Groups"])
}
