package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/guest/guesttest"
)

// TestExamples runs the examples that bring a guest of their own, as they stand.
func TestExamples(t *testing.T) {
	vmfs, err := exec.LookPath("vmfs")
	require.NoError(t, err)
	kernel, initrd := guesttest.Image(t)
	guest := t.TempDir()
	require.NoError(t, os.Symlink(kernel, filepath.Join(guest, "vmlinuz")))
	require.NoError(t, os.Symlink(initrd, filepath.Join(guest, "initrd")))
	left := func() []string {
		names, err := filepath.Glob("/tmp/vmfs-example.*")
		require.NoError(t, err)
		return names
	}
	before := left()
	for name, want := range map[string]string{
		"exec.sh":      "exit status 7, and it said: to stderr\n",
		"tar.sh":       "they are the same\n",
		"guest-log.sh": " lines\n",
		"forward.sh":   "three through the guest\n",
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := exec.LookPath("socat"); err != nil && name == "forward.sh" {
				guesttest.Missing(t, "socat is not installed: `apt-get install socat`")
			}
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, filepath.Join("../../examples", name))
			cmd.Env = append(os.Environ(), "VMFS="+vmfs, "GUEST="+guest, "VM=", "VMFS_ADDR=")
			// The script cleans up by itself when it is asked to end.
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
			cmd.WaitDelay = 20 * time.Second
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
			assert.Contains(t, string(out), want)
		})
	}
	assert.Equal(t, before, left())
}
