package cloudhypervisor

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
)

// program53 makes a program of the right version that does what a script says.
func program53(t *testing.T, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cloud-hypervisor")
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n[ \"$*\" = --version ] && { echo 'cloud-hypervisor v53.0'; exit; }\n"+script), 0o700))
	return path
}

// TestDyingVMM starts a program that ends at once: its words, which go through another
// process, are the error, and nothing is left of either.
func TestDyingVMM(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "vmfs")
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	kernel := filepath.Join(dir, "kernel")
	require.NoError(t, os.WriteFile(kernel, nil, 0o600))
	run := filepath.Join(dir, "run")
	config := hypervisor.VMConfig{
		MemoryBytes: 64 << 20, KernelPath: kernel, SerialLogPath: filepath.Join(dir, "console.log"), LogPath: filepath.Join(dir, "log"),
	}
	start := func(script string) error {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		s := New(Config{Binary: program53(t, script)})
		_, _, err := s.StartVM(ctx, nil, "", filepath.Join(run, SocketName), config)
		require.Error(t, err)
		entries, _ := os.ReadDir(run) // may not be there
		assert.Empty(t, entries)
		return err
	}
	for range 3 {
		err := start("echo '2026-11-28T15:00:00.1Z ERROR: Failed to open /dev/kvm' >&2\nexit 1\n")
		assert.EqualError(t, err, "cloud-hypervisor: start run: Cloud Hypervisor ended (exit status 1): Failed to open /dev/kvm")
	}
	assert.ErrorContains(t, start("kill -9 $$\n"), "Cloud Hypervisor ended (signal: killed) and said nothing")

	config.SerialLogPath = filepath.Join(dir, "none", "console.log")
	err = start("sleep 600\n")
	require.ErrorIs(t, err, os.ErrNotExist)
	assert.ErrorContains(t, err, "serial log: open ")
}
