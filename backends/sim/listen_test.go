package sim

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
)

func TestListen(t *testing.T) {
	world := NewWorld()
	s := New(Config{World: world})
	dir := t.TempDir()
	socket := filepath.Join(dir, "vsock.sock")
	d, ok := world.Dialer(socket, 3).(hypervisor.VsockListener)
	require.True(t, ok)
	ctx := context.Background()
	_, err := d.ListenVsock(ctx, 514)
	require.ErrorIs(t, err, hypervisor.ErrHypervisorNotRunning)

	_, hv, err := s.StartVM(ctx, nil, "", filepath.Join(dir, "sim.sock"), hypervisor.VMConfig{
		VCPUs: 1, MemoryBytes: 1 << 28, VsockCID: 3, VsockSocket: socket,
	})
	require.NoError(t, err)
	defer hypervisor.CloseHandle(hv)
	vm, ok := world.VM(filepath.Join(dir, "sim.sock"))
	require.True(t, ok)
	run := func(command string) {
		vm.mu.Lock()
		defer vm.mu.Unlock()
		vm.typed = append(vm.typed, command+"\n"...)
		vm.readConsole()
	}

	for _, port := range []int{0, -1, 1<<32 - 1} {
		_, err = d.ListenVsock(ctx, port)
		require.ErrorIs(t, err, hypervisor.ErrInvalid)
	}
	run("dial 514 nobody listens")
	run("dial nothing")
	ln, err := d.ListenVsock(ctx, 514)
	require.NoError(t, err)
	_, err = d.ListenVsock(ctx, 514)
	require.ErrorIs(t, err, syscall.EADDRINUSE)

	run("dial 514 hello host")
	c, err := ln.Accept()
	require.NoError(t, err)
	in := bufio.NewReader(c)
	line, err := in.ReadString('\n')
	require.NoError(t, err)
	assert.Equal(t, "hello host\n", line)
	_, err = io.WriteString(c, "ping\n")
	require.NoError(t, err)
	require.NoError(t, c.(interface{ CloseWrite() error }).CloseWrite())
	rest, err := io.ReadAll(in)
	require.NoError(t, err)
	assert.Equal(t, "ping\n", string(rest))
	require.NoError(t, c.Close())

	run("dial 514 and hang up")
	accepted := make(chan error, 1)
	require.NoError(t, ln.Close())
	go func() { _, err := ln.Accept(); accepted <- err }()
	require.ErrorIs(t, <-accepted, net.ErrClosed)
	assert.True(t, errors.Is(ln.Close(), net.ErrClosed))
	ln, err = d.ListenVsock(ctx, 514)
	require.NoError(t, err, "the port is free again")
	require.NoError(t, ln.Close())
	require.NoError(t, hv.Shutdown(ctx))
}
