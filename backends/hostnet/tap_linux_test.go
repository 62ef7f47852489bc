package hostnet

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"vmfs/backends/hostnet/hostnettest"
	"vmfs/backends/hypervisor"
	"vmfs/guest/guesttest"
)

// namespace is an empty network where taps can be made.
func namespace(t *testing.T) {
	t.Helper()
	err := hostnettest.Namespace(t)
	if err == nil {
		err = unix.Access("/dev/net/tun", unix.R_OK|unix.W_OK)
	}
	if err != nil {
		guesttest.Missing(t, "taps cannot be tried (run as root, modprobe tun): "+err.Error())
	}
}

func TestOpenTap(t *testing.T) {
	namespace(t)
	hostnettest.IP(t, "tuntap add tap0 mode tap")
	hostnettest.IP(t, "tuntap add tun0 mode tun")
	hostnettest.IP(t, "tuntap add many0 mode tap multi_queue")
	f, err := OpenTap(t.Context(), "tap0")
	require.NoError(t, err)
	defer f.Close()

	for name, c := range map[string]struct {
		is   error
		says string
	}{
		"tap0":    {hypervisor.ErrBusy, "another program has it"},
		"tun0":    {hypervisor.ErrInvalid, "not a tap"},
		"lo":      {hypervisor.ErrInvalid, "not a tap"},
		"many0":   {unix.EINVAL, "not a single-queue tap"},
		"missing": {os.ErrNotExist, "ip tuntap add missing mode tap"},
		"a/b":     {hypervisor.ErrInvalid, "interface name"},
	} {
		began := time.Now()
		_, err := OpenTap(t.Context(), name)
		require.ErrorIs(t, err, c.is, name)
		assert.ErrorContains(t, err, c.says)
		assert.ErrorContains(t, err, "tap "+name)
		if name != "tap0" {
			assert.Less(t, time.Since(began), busyWait, "%s: only a busy one is waited for", name)
		}
	}
	assert.NotContains(t, hostnettest.IP(t, "link"), "missing", "none is made")

	// One whose process has just ended is waited for, as far as the context lets it.
	ctx, cancel := context.WithTimeout(t.Context(), busyWait/20)
	defer cancel()
	_, err = OpenTap(ctx, "tap0")
	require.ErrorIs(t, err, hypervisor.ErrBusy)
	timer := time.AfterFunc(busyWait/5, func() { _ = f.Close() })
	defer timer.Stop()
	again, err := OpenTap(t.Context(), "tap0")
	require.NoError(t, err)
	require.NoError(t, again.Close())
}

func TestBridgeTap(t *testing.T) {
	namespace(t)
	hostnettest.IP(t, "link add br0 type bridge")
	// What nobody has set of a bridge goes by its ports.
	hostnettest.IP(t, "link set br0 mtu 9000 address 52:54:00:00:00:01 up")
	before := hostnettest.IP(t, "-d link show br0")
	name := TapName("web", "5a0e6d3c-1111-4222-8333-444455556666", 0)
	f, err := BridgeTap(t.Context(), "br0", name)
	require.NoError(t, err)
	tap := hostnettest.IP(t, "-d link show "+name)
	for _, says := range []string{"master br0", "mtu 9000", ",UP", "link/ether fe:", "persist off"} {
		assert.Contains(t, tap, says)
	}

	// A second one of the same VM is refused, and leaves the first alone.
	_, err = BridgeTap(t.Context(), "br0", name)
	require.ErrorIs(t, err, hypervisor.ErrBusy)
	assert.ErrorContains(t, err, name)
	assert.Contains(t, hostnettest.IP(t, "link show "+name), "master br0")

	// It goes with its last descriptor, whoever has that, and the bridge is as it was.
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	_, err = net.InterfaceByName(name)
	require.NoError(t, err)
	require.NoError(t, unix.Close(fd))
	assert.Eventually(t, func() bool { _, err := net.InterfaceByName(name); return err != nil }, 5*time.Second, 5*time.Millisecond)
	assert.Equal(t, steady(before), steady(hostnettest.IP(t, "-d link show br0")))

	// Nothing is left of one that fails either.
	for bridge, c := range map[string]struct {
		is   error
		says string
	}{
		"br1": {os.ErrNotExist, "ip link add br1 type bridge"},
		"lo":  {hypervisor.ErrInvalid, "not a bridge"},
		"":    {hypervisor.ErrInvalid, "interface name"},
	} {
		_, err := BridgeTap(t.Context(), bridge, name)
		require.ErrorIs(t, err, c.is, bridge)
		assert.ErrorContains(t, err, c.says)
	}
	interfaces, err := net.Interfaces()
	require.NoError(t, err)
	for _, i := range interfaces {
		assert.False(t, strings.HasPrefix(i.Name, "vm-"), i.Name)
	}
}

// steady is what of a link's description does not move.
func steady(link string) string {
	line, _, _ := strings.Cut(link, "bridge ")
	return strings.NewReplacer("LOWER_UP", "", "NO-CARRIER", "", "state UP", "", "state DOWN", "").Replace(line)
}

// TestBridgeTapWithoutRight is a server that is not root.
func TestBridgeTapWithoutRight(t *testing.T) {
	namespace(t)
	hostnettest.IP(t, "link add br0 type bridge")
	var hdr = unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	require.NoError(t, unix.Capget(&hdr, &data[0]))
	data[0].Effective &^= 1 << unix.CAP_NET_ADMIN
	require.NoError(t, unix.Capset(&hdr, &data[0])) // of this thread, which ends with the test
	_, err := BridgeTap(t.Context(), "br0", TapName("web", "", 0))
	require.True(t, errors.Is(err, unix.EPERM), "%v", err)
	assert.ErrorContains(t, err, "CAP_NET_ADMIN")
	assert.ErrorContains(t, err, "bridge br0")
}

func TestTapName(t *testing.T) {
	seen := map[string]bool{}
	for _, vm := range []string{"web", "a.name_of-63-bytes", "", "ü"} {
		for _, uuid := range []string{"a", "b"} {
			for i := range 2 {
				name := TapName(vm, uuid, i)
				require.NoError(t, hypervisor.CheckInterface(name))
				assert.False(t, seen[name], name)
				seen[name] = true
				assert.Equal(t, name, TapName(vm, uuid, i))
			}
		}
	}
	assert.True(t, strings.HasPrefix(TapName("web", "a", 0), "vm-web-"))
	assert.True(t, strings.HasPrefix(TapName("webserver", "a", 0), "vm-webse-"))
}
