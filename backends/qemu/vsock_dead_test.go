package qemu

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// deadDevice is one that was killed before it had connected.
type deadDevice struct{}

func (deadDevice) Close() error               { return nil }
func (deadDevice) Wait(context.Context) error { return nil }
func (deadDevice) PID() int                   { return 0 }
func (deadDevice) Adopted() bool              { return false }

// TestVsockDeviceDies has a start fail whose device was killed: nothing is left of
// either.
func TestVsockDeviceDies(t *testing.T) {
	s := newTestStarter(t)
	s.config.StartVsockDevice = func(_ context.Context, d VsockDevice) (io.Closer, error) {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: d.Socket, Net: "unix"})
		if err != nil {
			return nil, err
		}
		l.SetUnlinkOnClose(false) // as nobody does for who is killed
		return deadDevice{}, l.Close()
	}
	dir := shortDir(t)
	config := bare(dir)
	config.VsockCID, config.VsockSocket = 77, filepath.Join(dir, "vsock.sock")
	_, _, err := s.StartVM(testContext(t), nil, "", filepath.Join(dir, SocketName), config)
	require.ErrorContains(t, err, "the device ended before it had connected")
	sockets, err := filepath.Glob(filepath.Join(dir, "*.sock"))
	require.NoError(t, err)
	require.Empty(t, sockets)
}
