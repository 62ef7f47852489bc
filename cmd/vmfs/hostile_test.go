package main

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestHostileFiles has FIFOs and links in the place of what the server reads of a VM, as a
// VMM that was taken over could put them there: who reads such a file is refused, nobody
// else notices, and the server ends when it is told to.
func TestHostileFiles(t *testing.T) {
	s := newServer(t)
	s.start()
	s.makeVM("web", "hypervisor=sim\nmemory=64M\n")
	s.must("write", "web/ctl", "start")
	s.must("write", "web/ctl", "kill")
	secret := filepath.Join(s.dir, "secret")
	require.NoError(t, os.WriteFile(secret, []byte("a secret"), 0o600))
	dir := filepath.Join(s.state, "vms", "web")
	for name, put := range map[string]func(path string) error{
		"a FIFO":          func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"a symbolic link": func(path string) error { return os.Symlink(secret, path) },
		"a directory":     func(path string) error { return os.Mkdir(path, 0o700) },
	} {
		for _, file := range []string{"log", "console.log", "events"} {
			path := filepath.Join(dir, file)
			require.NoError(t, os.RemoveAll(path))
			require.NoError(t, put(path))
		}
		s.refused("cat", "web/log")
		s.refused("cat", "web/console")
		s.refused("write", "web/ctl", "start")
		assert.Contains(t, s.must("cat", "web/error"), name)
		assert.Equal(t, "shutdown", s.must("cat", "web/state"), "all else is as ever")
		s.must("mkdir", "other")
		s.must("rmdir", "other")
	}
	got, err := os.ReadFile(secret)
	require.NoError(t, err)
	assert.Equal(t, "a secret", string(got), "nothing was written where a link leads")

	ended := make(chan error, 1)
	require.NoError(t, s.cmd.Process.Signal(syscall.SIGTERM))
	go func() { ended <- s.cmd.Wait() }()
	select {
	case err := <-ended:
		require.NoError(t, err)
	case <-time.After(2 * patience):
		t.Fatal("the server does not end")
	}
	s.cmd = nil
	s.start()
	assert.Equal(t, "shutdown", s.must("cat", "web/state"), "nor is its start held up")
}
