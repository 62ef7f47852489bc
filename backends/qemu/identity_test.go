package qemu

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/process"
	"vmfs/backends/rundir"
	"vmfs/internal/unixsock"
)

// What a QEMU says of its pid is not believed: 1 is what one says that has a pid namespace
// of its own, and the host's init was never its.
func TestPIDFileIsNotBelieved(t *testing.T) {
	s := newTestStarter(t)
	dir := shortDir(t)
	v := startTest(t, s, dir, bare(dir))
	rec := v.record()
	require.NotNil(t, rec.Process)
	assert.Equal(t, v.Child.Process, *rec.Process)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "qemu.pid"), []byte("1\n"), 0o600))
	again := v.reopen()
	id, err := again.Identify(testContext(t))
	require.NoError(t, err)
	assert.Equal(t, v.Child.PID, id.PID)

	// One that an earlier version has started is found by its socket.
	require.NoError(t, again.rec.Change(func(r *rundir.Record) { r.Process = nil }))
	again = again.reopen()
	id, err = again.Identify(testContext(t))
	require.NoError(t, err)
	assert.Equal(t, v.Child.PID, id.PID)
}

// Whoever serves the socket in the place of a QEMU that was recorded, or that is none, is
// not taken for it.
func TestAnotherServesTheSocket(t *testing.T) {
	s := newTestStarter(t)
	dir := shortDir(t)
	l, err := net.Listen("unix", filepath.Join(dir, SocketName))
	require.NoError(t, err)
	defer l.Close()
	for name, p := range map[string]*process.Process{"none recorded": nil, "ended": {PID: 1, Start: "long ago"}} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, rundir.Write(testDir(dir).Dir, &record{Record: rundir.Record{Process: p}}))
			require.NoError(t, os.WriteFile(filepath.Join(dir, "qemu.pid"), []byte("1\n"), 0o600))
			vm, err := s.Open(filepath.Join(dir, SocketName))
			require.NoError(t, err)
			defer vm.Close()
			pid, err := vm.pid()
			assert.ErrorContains(t, err, "is served")
			assert.Zero(t, pid)
		})
	}
}

// A QEMU is found whose socket was connected to before it listened there: that connection is
// to who bound the socket, a server that was killed in the start.
func TestReachedBeforeItListens(t *testing.T) {
	s := newTestStarter(t)
	dir := shortDir(t)
	socket := filepath.Join(dir, SocketName)
	control, err := unixsock.Bind(testContext(t), socket)
	require.NoError(t, err)
	defer control.Close()
	vm, err := s.Open(socket)
	require.NoError(t, err)
	defer vm.Close()
	cmd := exec.Command("qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none", "-pidfile", filepath.Join(dir, "qemu.pid"),
		"-chardev", "socket,id=qmp,fd=3,server=on,wait=off", "-mon", "chardev=qmp,mode=control")
	cmd.ExtraFiles = []*os.File{control}
	require.NoError(t, cmd.Start())
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	for range 3 {
		id, err := vm.Identify(testContext(t))
		require.NoError(t, err)
		assert.Equal(t, cmd.Process.Pid, id.PID)
	}
}
