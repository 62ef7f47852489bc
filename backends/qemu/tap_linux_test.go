package qemu

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"vmfs/backends/hypervisor"
	"vmfs/guest/guesttest"
)

// makeTap makes a tap that lasts until the test's end.
func makeTap(t testing.TB, flags uint16) string {
	t.Helper()
	name := fmt.Sprintf("vmfst%d", os.Getpid()%100000)
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(fd)
		req, rerr := unix.NewIfreq(name)
		require.NoError(t, rerr)
		req.SetUint16(flags | unix.IFF_NO_PI)
		if err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err == nil {
			err = unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1)
		}
	}
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) || errors.Is(err, unix.EPERM) {
		guesttest.Missing(t, fmt.Sprintf("a tap cannot be made (run as root, modprobe tun): %v", err))
	}
	require.NoError(t, err)
	t.Cleanup(func() {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		require.NoError(t, err)
		defer unix.Close(fd)
		req, err := unix.NewIfreq(name)
		require.NoError(t, err)
		req.SetUint16(flags | unix.IFF_NO_PI)
		require.NoError(t, unix.IoctlIfreq(fd, unix.TUNSETIFF, req))
		require.NoError(t, unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 0))
	})
	return name
}

func TestTap(t *testing.T) {
	s := newTestStarter(t)
	dir := shortDir(t)
	config := bare(dir)
	config.Networks = []hypervisor.NetworkConfig{{TAPDevice: makeTap(t, unix.IFF_TAP|unix.IFF_VNET_HDR), MAC: "52:54:00:01:02:03"}}
	v := startTest(t, s, dir, config)
	assert.Equal(t, hypervisor.StateRunning, v.info().State)

	other := shortDir(t)
	_, _, err := s.StartVM(testContext(t), nil, "", filepath.Join(other, SocketName), config)
	require.ErrorIs(t, err, hypervisor.ErrBusy)
	assert.ErrorContains(t, err, config.Networks[0].TAPDevice)
	expectNothing(t, other)

	v.end()
	again := startTest(t, s, dir, config)
	assert.Equal(t, hypervisor.StateRunning, again.info().State, "the tap is free when QEMU has gone")
	again.end()
}

func TestTunIsNoTap(t *testing.T) {
	name := makeTap(t, unix.IFF_TUN)
	f, err := openTap(name)
	if err == nil {
		_ = f.Close()
	}
	require.Error(t, err)
	assert.ErrorContains(t, err, name)
	for _, name := range []string{"", "a/b", "..", "averyverylongname"} {
		_, err := openTap(name)
		require.ErrorIs(t, err, hypervisor.ErrInvalid, name)
	}
}
