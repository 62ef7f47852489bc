package hypervisortest

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
)

func (s *suite) testVsock(t *testing.T) {
	vm := s.vm(t)
	if !vm.Handle.Capabilities().SupportsVsock || s.b.EchoPort == 0 {
		t.Skip("no vsock, or nothing that echoes on it")
	}
	dialer, err := hypervisor.NewVsockDialer(s.b.Type, vm.Config.VsockSocket, vm.Config.VsockCID)
	require.NoError(t, err, "NewVsockDialer")
	same, err := hypervisor.NewVsockDialer(s.b.Type, vm.Config.VsockSocket, vm.Config.VsockCID)
	require.NoError(t, err, "NewVsockDialer")
	assert.Equal(t, dialer.Key(), same.Key(), "the keys of two dialers of one guest")
	other, err := hypervisor.NewVsockDialer(s.b.Type, vm.Config.VsockSocket+"x", vm.Config.VsockCID+1)
	require.NoError(t, err, "NewVsockDialer")
	assert.NotEqual(t, dialer.Key(), other.Key(), "the keys of dialers of two guests")

	if source, ok := vm.Handle.(hypervisor.VsockSource); ok {
		own, err := source.VsockDialer()
		require.NoError(t, err, "VsockDialer of the handle")
		assert.Equal(t, dialer.Key(), own.Key(), "the keys of two dialers of one guest, one of them the handle's")
		conn, err := own.DialVsock(s.ctx(t), s.b.EchoPort)
		require.NoError(t, err, "DialVsock by the handle's dialer")
		_, err = conn.Write([]byte("x"))
		require.NoError(t, err)
		_, err = io.ReadFull(conn, make([]byte, 1))
		require.NoError(t, err, "reading the echo by the handle's dialer")
		require.NoError(t, conn.Close())
	}

	conn, err := dialer.DialVsock(s.ctx(t), s.b.EchoPort)
	require.NoError(t, err, "DialVsock")
	defer conn.Close()
	data := make([]byte, 1<<20)
	_, _ = rand.Read(data) // never fails
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(data)
		if w, ok := conn.(interface{ CloseWrite() error }); ok && err == nil {
			err = w.CloseWrite()
		}
		sent <- err
	}()
	got := make([]byte, len(data))
	_, err = io.ReadFull(conn, got)
	require.NoError(t, err, "reading the echo")
	require.True(t, bytes.Equal(data, got), "the echo differs from what was sent")
	require.NoError(t, promptly(t, s.b.Prompt, "the writer", func() error { return <-sent }))
	if _, ok := conn.(interface{ CloseWrite() error }); assert.True(t, ok, "%T has no CloseWrite", conn) {
		_, err = io.ReadFull(conn, make([]byte, 1))
		assert.ErrorIs(t, err, io.EOF, "reading after the half-closed echo has ended")
	}

	_, err = dialer.DialVsock(s.ctx(t), s.b.RefusedPort)
	assert.ErrorIs(t, err, s.b.RefusedError, "DialVsock to a port that refuses")
	_, err = dialer.DialVsock(s.ctx(t), 0)
	assert.ErrorIs(t, err, s.b.PortError, "DialVsock to port 0")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = dialer.DialVsock(ctx, s.b.EchoPort)
	assert.ErrorIs(t, err, context.Canceled, "DialVsock with a cancelled context")
}
