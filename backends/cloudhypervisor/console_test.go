package cloudhypervisor

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/cloudhypervisor/chtest"
	"vmfs/backends/companion"
	"vmfs/backends/hypervisor"
	"vmfs/backends/serial"
)

// holds waits until the serial log is what it should be, as it was printed.
func (f *fake) holds(want string) {
	f.t.Helper()
	require.EventuallyWithT(f.t, func(c *assert.CollectT) {
		b, err := os.ReadFile(f.config.SerialLogPath)
		assert.NoError(c, err)
		assert.Equal(c, want, strings.ReplaceAll(string(b), "\r", ""))
	}, patience, 2*time.Millisecond)
}

// types types a line at the console, which the guest echoes.
func (f *fake) types(line string) {
	f.t.Helper()
	c, err := serial.Open(testContext(f.t), f.console())
	require.NoError(f.t, err)
	defer c.Close()
	require.NoError(f.t, c.SetDeadline(time.Now().Add(patience)))
	_, err = io.WriteString(c, line+"\r")
	require.NoError(f.t, err)
	got := make([]byte, len(line)+1)
	_, err = io.ReadFull(c, got)
	require.NoError(f.t, err)
	require.Equal(f.t, line+"\n", string(got))
}

func (f *fake) console() string { return filepath.Join(filepath.Dir(f.socket), "console.sock") }

// beside finds the process that holds the console.
func (f *fake) beside() *companion.Companion {
	f.t.Helper()
	p, err := serial.FindOrStart(testContext(f.t), f.dir.serial(&f.config))
	require.NoError(f.t, err)
	require.True(f.t, p.Adopted, "nobody holds the console")
	return p
}

// TestConsole has the guest print and be typed at, with a handle and without one, over
// resets, and over the death of the process that holds the console.
func TestConsole(t *testing.T) {
	f := newFake(t, chtest.Config{})
	require.NoError(t, f.start())
	printed := chtest.Ready + "\n"
	f.holds(printed)
	conn, err := f.OpenConsole(testContext(t))
	require.NoError(t, err)
	_, err = f.OpenConsole(testContext(t))
	require.ErrorIs(t, err, hypervisor.ErrBusy)
	assert.ErrorContains(t, err, "cloud-hypervisor: console web: ")
	require.NoError(t, conn.Close())
	say := func(line string) {
		t.Helper()
		f.types(line)
		printed += line + "\n"
		f.holds(printed)
	}
	say("with a server")

	// A reset closes the socket and makes another.
	require.NoError(t, f.Reset(testContext(t)))
	printed += chtest.Ready + "\n"
	f.holds(printed)
	say("after a reset")

	// The process dies, and is there again.
	first := f.beside()
	require.NoError(t, first.Signal(syscall.SIGKILL))
	require.NoError(t, first.Wait(testContext(t)))
	say("after its death")
	second := f.beside()
	assert.NotEqual(t, first.PID, second.PID)

	// Nothing of it depends on the server.
	require.NoError(t, f.Close())
	say("without a server")
	f.reopen()
	say("with another one")
	assert.Equal(t, second.PID, f.beside().PID)

	// It died with the server: the next one starts it.
	require.NoError(t, f.Close())
	require.NoError(t, second.Signal(syscall.SIGKILL))
	require.NoError(t, second.Wait(testContext(t)))
	f.reopen()
	say("in time")
	third := f.beside()

	// With the VMM it ends.
	require.NoError(t, f.proc.Signal(syscall.SIGKILL))
	f.expectOver()
	require.NoError(t, third.Wait(testContext(t)))
	f.holds(printed)
	_, err = f.OpenConsole(testContext(t))
	require.ErrorIs(t, err, hypervisor.ErrHypervisorNotRunning)
}

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
