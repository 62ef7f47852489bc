package qemu

import (
	"context"
	"net"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"vmfs/backends/companion"
	"vmfs/backends/qemu/vsockdev"
)

// TestVsockDeviceDies has a start fail whose device was killed: nothing is left of
// either.
func TestVsockDeviceDies(t *testing.T) {
	s := newTestStarter(t)
	s.startDevice = func(_ context.Context, d vsockdev.Config, _ bool) (*companion.Companion, error) {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: d.Socket, Net: "unix"})
		if err != nil {
			return nil, err
		}
		l.SetUnlinkOnClose(false) // as nobody does for who is killed
		return &companion.Companion{}, l.Close()
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
