package process_test

import (
	"context"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/process"
)

// sleeper starts a child that runs until it is signalled.
func sleeper(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestFind(t *testing.T) {
	self, err := process.Find(os.Getpid())
	require.NoError(t, err)
	assert.True(t, self.Alive())
	again, err := process.Find(os.Getpid())
	require.NoError(t, err)
	assert.Equal(t, self, again)

	for _, pid := range []int{0, -1, 1 << 30} {
		_, err := process.Find(pid)
		assert.ErrorIs(t, err, process.ErrEnded, "pid %d", pid)
	}
	assert.False(t, process.Process{}.Alive())
	assert.NoError(t, process.Process{}.Wait(within(t)))
	assert.ErrorIs(t, process.Process{}.Signal(syscall.SIGTERM), process.ErrEnded)
}

func TestZombieHasEnded(t *testing.T) {
	cmd := sleeper(t)
	p, err := process.Find(cmd.Process.Pid)
	require.NoError(t, err)
	require.True(t, p.Alive())
	require.NoError(t, p.Signal(syscall.SIGKILL))

	// Nobody has reaped it, so the pid still answers kill(pid, 0).
	require.NoError(t, p.Wait(within(t)))
	assert.False(t, p.Alive())
	assert.NoError(t, syscall.Kill(p.PID, 0))
	_, err = process.Find(p.PID)
	assert.ErrorIs(t, err, process.ErrEnded)
	assert.ErrorIs(t, p.Signal(syscall.SIGTERM), process.ErrEnded)
	assert.NoError(t, p.Wait(within(t)))
}

// A pid that is another process's now is neither alive nor signalled.
func TestReusedPID(t *testing.T) {
	cmd := sleeper(t)
	p, err := process.Find(cmd.Process.Pid)
	require.NoError(t, err)
	earlier := process.Process{PID: p.PID, Start: p.Start + "0"}
	assert.False(t, earlier.Alive())
	assert.ErrorIs(t, earlier.Signal(syscall.SIGKILL), process.ErrEnded)
	assert.NoError(t, earlier.Wait(within(t)))
	assert.True(t, p.Alive())
}

func TestWaitObeysContext(t *testing.T) {
	cmd := sleeper(t)
	p, err := process.Find(cmd.Process.Pid)
	require.NoError(t, err)

	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Wait(ctx) }()
	select {
	case err := <-done:
		t.Fatalf("Wait returned %v for a process that runs", err)
	case <-time.After(50 * time.Millisecond):
	}
	cancel()
	select {
	case err := <-done:
		assert.ErrorIs(t, err, context.Canceled)
	case <-time.After(30 * time.Second):
		t.Fatal("Wait did not obey its context")
	}
	assert.ErrorIs(t, p.Wait(ctx), context.Canceled)
}

// A grandchild that was left by its parent can be waited for as well.
func TestWaitForNonChild(t *testing.T) {
	out, err := exec.Command("sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!").Output()
	require.NoError(t, err)
	var pid int
	for _, c := range out {
		if c >= '0' && c <= '9' {
			pid = pid*10 + int(c-'0')
		}
	}
	p, err := process.Find(pid)
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- p.Wait(within(t)) }()
	require.NoError(t, p.Signal(syscall.SIGKILL))
	require.NoError(t, <-done)
	assert.False(t, p.Alive())
}

func TestExit(t *testing.T) {
	for _, c := range []struct {
		end  func(*testing.T, process.Process, *exec.Cmd)
		want process.Exit
		text string
	}{
		{func(t *testing.T, p process.Process, _ *exec.Cmd) { require.NoError(t, p.Signal(syscall.SIGKILL)) },
			process.Exit{Known: true, Signal: syscall.SIGKILL}, "signal: killed"},
		{func(t *testing.T, p process.Process, _ *exec.Cmd) { require.NoError(t, p.Signal(syscall.SIGUSR1)) },
			process.Exit{Known: true, Code: 3}, "exit status 3"},
	} {
		// Not HUP: a shell that was started with a signal ignored cannot trap it.
		cmd := exec.Command("sh", "-c", "trap 'exit 3' USR1; echo ready; while :; do sleep 0.01; done")
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		t.Cleanup(func() { _ = cmd.Process.Kill() }) // if the test fails before its end
		_, err = out.Read(make([]byte, 16))
		require.NoError(t, err)
		p, err := process.Find(cmd.Process.Pid)
		require.NoError(t, err)
		reaped := make(chan error, 1)
		go func() { reaped <- cmd.Wait() }()
		c.end(t, p, cmd)
		exit, err := p.WaitExit(within(t))
		require.NoError(t, err)
		<-reaped
		if !exit.Known {
			t.Logf("this kernel does not tell how a process ended that has gone; seen: %+v", exit)
			assert.Empty(t, exit.String())
			continue
		}
		assert.Equal(t, c.want, exit)
		assert.Equal(t, c.text, exit.String())
	}
}

func TestManyWaiters(t *testing.T) {
	cmd := sleeper(t)
	p, err := process.Find(cmd.Process.Pid)
	require.NoError(t, err)
	done := make(chan error)
	for range 50 {
		go func() { done <- p.Wait(within(t)) }()
	}
	require.NoError(t, p.Signal(syscall.SIGKILL))
	for range 50 {
		assert.NoError(t, <-done)
	}
}
