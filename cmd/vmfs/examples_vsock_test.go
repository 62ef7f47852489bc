package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/guest/guesttest"
)

// TestExamples runs the examples that bring a guest of their own: one as it stands,
// and then all on one guest.
func TestExamples(t *testing.T) {
	t.Parallel() // with the other tests that wait for a guest
	vmfs, err := exec.LookPath("vmfs")
	require.NoError(t, err)
	if _, err := exec.LookPath("socat"); err != nil {
		guesttest.Missing(t, "socat is not installed: `apt-get install socat`")
	}
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
	run := func(t *testing.T, args ...string) string {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Dir = "../../examples"
		cmd.Env = append(os.Environ(), "BACKEND="+string(storiesOn()), "VMFS="+vmfs, "GUEST="+guest, "VM=", "VMFS_ADDR=")
		// The script cleans up by itself when it is asked to end.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
		cmd.WaitDelay = 20 * time.Second
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	said := map[string]string{
		"exec.sh":      "exit status 7, and it said: to stderr\n",
		"tar.sh":       "they are the same\n",
		"guest-log.sh": " lines\n",
		"forward.sh":   "three through the guest\n",
	}
	t.Run("as it stands", func(t *testing.T) { assert.Contains(t, run(t, "./exec.sh"), said["exec.sh"]) })
	t.Run("on one guest", func(t *testing.T) {
		out := run(t, "./with-guest.sh", "sh", "-ec", "for e in *.sh; do case $e in demo.sh|with-guest.sh) ;; *) echo \"== $e\"; ./$e ;; esac; done")
		parts := strings.Split(out, "== ")[1:]
		require.Len(t, parts, len(said), "%s", out)
		for _, part := range parts {
			name, text, _ := strings.Cut(part, "\n")
			require.Contains(t, said, name, "an example that nothing is expected of")
			assert.Contains(t, text, said[name], name)
		}
	})
	assert.Equal(t, before, left())
}
