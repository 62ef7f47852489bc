package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/guest/guesttest"
)

// TestDemoInterrupted ends the demo by Ctrl-C while its VM runs: nothing stays.
func TestDemoInterrupted(t *testing.T) {
	vmfs, err := exec.LookPath("vmfs")
	require.NoError(t, err)
	kernel, initrd := guesttest.Image(t)
	dir := t.TempDir()
	require.NoError(t, os.Symlink(kernel, filepath.Join(dir, "vmlinuz")))
	require.NoError(t, os.Symlink(initrd, filepath.Join(dir, "initrd")))
	cmd := exec.Command("../../examples/demo.sh")
	cmd.Env = append(os.Environ(), "BACKEND="+string(storiesOn()), "VMFS="+vmfs, "GUEST="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out := &logBuffer{}
	cmd.Stdout, cmd.Stderr = out, out
	require.NoError(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	require.Eventually(t, func() bool { return strings.Contains(out.String(), "\nrunning\n") }, 2*patience, 10*time.Millisecond)
	work := regexp.MustCompile(`/tmp/vmfs-demo\.\w+`).FindString(out.String())
	s := &server{t: t, dir: work}
	assert.NotEmpty(t, s.vmms())
	require.NoError(t, syscall.Kill(-cmd.Process.Pid, syscall.SIGINT))
	select {
	case err = <-ended:
	case <-time.After(2 * patience):
		t.Fatal("the demo does not end")
	}
	assert.ErrorContains(t, err, "exit status 130", "%s", out)
	assert.Empty(t, s.vmms())
	assert.NoDirExists(t, work)
}

// TestDemo runs the demo with each of its back ends and looks for what it leaves.
func TestDemo(t *testing.T) {
	for _, backend := range []string{"sim", string(storiesOn())} {
		t.Run(backend, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
			defer cancel()
			vmfs, err := exec.LookPath("vmfs")
			require.NoError(t, err)
			cmd := exec.CommandContext(ctx, "../../examples/demo.sh")
			cmd.Env = append(os.Environ(), "BACKEND="+backend, "VMFS="+vmfs)
			if backend != "sim" {
				kernel, initrd := guesttest.Image(t)
				dir := t.TempDir()
				require.NoError(t, os.Symlink(kernel, filepath.Join(dir, "vmlinuz")))
				require.NoError(t, os.Symlink(initrd, filepath.Join(dir, "initrd")))
				cmd.Env = append(cmd.Env, "GUEST="+dir)
			}
			// The script cleans up by itself when it is asked to end.
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
			cmd.WaitDelay = 20 * time.Second
			before, err := filepath.Glob("/tmp/vmfs-demo.*")
			require.NoError(t, err)
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
			for _, part := range []string{" starting ", " started ", " paused ", " resize ", " exited ", "nothing is left running"} {
				assert.Contains(t, string(out), part)
			}
			if backend != "sim" {
				assert.Contains(t, string(out), "BusyBox", "lines of the console")
				assert.GreaterOrEqual(t, strings.Count(string(out), "MemTotal: "), 4, "the guest's view of its memory")
			}
			after, err := filepath.Glob("/tmp/vmfs-demo.*")
			require.NoError(t, err)
			assert.Equal(t, before, after)
		})
	}
}
