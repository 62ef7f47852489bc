package flock_test

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/internal/flock"
)

func TestHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	pid, err := flock.Holder(t.Context(), path)
	require.NoError(t, err)
	assert.Zero(t, pid, "there is no file")

	f, err := flock.File(t.Context(), path)
	require.NoError(t, err)
	pid, err = flock.Holder(t.Context(), path)
	require.NoError(t, err)
	assert.Equal(t, os.Getpid(), pid)
	require.NoError(t, f.Close())
	pid, err = flock.Holder(t.Context(), path)
	require.NoError(t, err)
	assert.Zero(t, pid, "nobody has it")
}

// Who holds a lock is what the kernel says, whatever the file says.
func TestHolderOfAnother(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	require.NoError(t, os.WriteFile(path, []byte("1\n"), 0o600))
	cmd := exec.Command("flock", "--no-fork", path, "sh", "-c", "echo locked; exec sleep 600")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "locked\n", line)

	pid, err := flock.Holder(t.Context(), path)
	require.NoError(t, err)
	assert.Equal(t, cmd.Process.Pid, pid)
}
