//go:build linux

package vsockdev

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/companion"
	"vmfs/backends/process"
	"vmfs/vsock/vhostuser"
)

// aVM returns the configuration of the device of a QEMU that is a listening socket.
func aVM(t *testing.T) Config {
	t.Helper()
	dir, err := os.MkdirTemp("", "v")
	require.NoError(t, err)
	c := Config{QEMUSocket: filepath.Join(dir, "qemu"), Socket: filepath.Join(dir, "s"), CID: 3, Log: filepath.Join(dir, "log")}
	l, err := net.Listen("unix", c.QEMUSocket)
	require.NoError(t, err)
	t.Cleanup(func() {
		l.Close()
		assert.NoError(t, End(context.Background(), c.Socket))
		if t.Failed() {
			b, _ := os.ReadFile(c.Log)
			t.Logf("log:\n%s", b)
		}
		os.RemoveAll(dir)
	})
	return c
}

// serving waits until a device answers.
func serving(t *testing.T, c Config) vhostuser.Status {
	t.Helper()
	var st vhostuser.Status
	require.Eventually(t, func() bool {
		var err error
		st, err = vhostuser.GetStatus(t.Context(), c.Socket)
		return err == nil && st.QEMU
	}, 20*time.Second, 5*time.Millisecond)
	return st
}

func ended(t *testing.T, p process.Process) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	require.NoError(t, p.Wait(ctx))
}

func TestStartFindEnd(t *testing.T) {
	c := aVM(t)
	require.NoError(t, End(t.Context(), c.Socket), "there is none")
	d, err := Start(t.Context(), c)
	require.NoError(t, err)
	assert.False(t, d.Adopted)
	assert.EqualValues(t, 3, serving(t, c).CID)
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", d.PID))
	require.NoError(t, err)
	assert.True(t, strings.HasPrefix(string(line), name+"\x00"), "%q", line)

	// The next server finds it.
	found, err := FindOrStart(t.Context(), c)
	require.NoError(t, err)
	assert.Equal(t, &companion.Companion{Process: d.Process, Adopted: true}, found)

	// One that nobody can reach makes room for another.
	require.NoError(t, os.Remove(c.Socket))
	another, err := FindOrStart(t.Context(), c)
	require.NoError(t, err)
	assert.False(t, another.Adopted)
	ended(t, d.Process)
	serving(t, c)

	// So does one that was killed.
	require.NoError(t, another.Signal(syscall.SIGKILL))
	ended(t, another.Process)
	third, err := FindOrStart(t.Context(), c)
	require.NoError(t, err)
	assert.False(t, third.Adopted)
	serving(t, c)

	// One that is stopped is ended all the same.
	require.NoError(t, third.Signal(syscall.SIGSTOP))
	require.NoError(t, End(t.Context(), c.Socket))
	ended(t, third.Process)
	require.NoError(t, third.End(t.Context()))
}

// A device takes no signals that are meant for the server, and none of the server's
// settings of them.
func TestSignals(t *testing.T) {
	signal.Ignore(syscall.SIGHUP, syscall.SIGTERM)
	defer signal.Reset(syscall.SIGHUP, syscall.SIGTERM)
	c := aVM(t)
	d, err := Start(t.Context(), c)
	require.NoError(t, err)
	serving(t, c)
	sid, _, errno := syscall.Syscall(syscall.SYS_GETSID, uintptr(d.PID), 0, 0)
	require.Zero(t, errno)
	assert.EqualValues(t, d.PID, sid)
	require.NoError(t, d.Signal(syscall.SIGTERM))
	ended(t, d.Process)
}

// A device that cannot serve says why in the log, and ends.
func TestCannotServe(t *testing.T) {
	c := aVM(t)
	require.NoError(t, os.WriteFile(c.Socket, nil, 0o600))
	d, err := Start(t.Context(), c)
	require.NoError(t, err)
	ended(t, d.Process)
	b, err := os.ReadFile(c.Log)
	require.NoError(t, err)
	assert.Contains(t, string(b), "not a socket")
	c.Log = filepath.Join(c.Socket, "log")
	_, err = Start(t.Context(), c)
	assert.ErrorIs(t, err, syscall.ENOTDIR)
}
