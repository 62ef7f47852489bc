package qemu

import (
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hostnet"
	"vmfs/backends/hostnet/hostnettest"
	"vmfs/backends/hypervisor"
	"vmfs/guest"
	"vmfs/guest/guesttest"
)

// namespace is an empty network where taps can be made.
func namespace(t *testing.T) {
	t.Helper()
	if err := hostnettest.Namespace(t); err != nil {
		guesttest.Missing(t, err.Error())
	}
	if err := tryOpen("/dev/net/tun"); err != nil {
		guesttest.Missing(t, err.Error()+" (modprobe tun)")
	}
}

func TestTap(t *testing.T) {
	namespace(t)
	hostnettest.IP(t, "tuntap add tap0 mode tap vnet_hdr")
	s := newTestStarter(t)
	dir := shortDir(t)
	config := bare(dir)
	config.Networks = []hypervisor.NetworkConfig{{TAPDevice: "tap0", MAC: "52:54:00:01:02:03"}}
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

// TestBridge has two guests on a bridge that ping each other, and nothing of it left
// when they have ended, the one by force.
func TestBridge(t *testing.T) {
	kernel, initrd := guesttest.Fast(t, guest.Options{}) // made with the host's network
	namespace(t)
	hostnettest.IP(t, "link add br0 type bridge")
	hostnettest.IP(t, "link set br0 up")
	s := newTestStarter(t)
	var vms []*testVM
	var taps []string
	for range 2 {
		dir := shortDir(t)
		config := bare(dir)
		config.KernelPath, config.InitrdPath, config.KernelArgs, config.MemoryBytes = kernel, initrd, "quiet", 128*mib
		config.Networks = []hypervisor.NetworkConfig{{User: true}, {Bridge: "br0"}}
		vms = append(vms, startTest(t, s, dir, config))
		taps = append(taps, hostnet.TapName(config.Name, config.UUID, 1))
	}
	for i, v := range vms {
		v.ready(0)
		sh := v.shell(t)
		sh.run("ip link set eth1 up && ip addr add 192.0.2.1" + string(rune('0'+i)) + "/24 dev eth1")
		require.NoError(t, sh.conn.Close())
		assert.Contains(t, hostnettest.IP(t, "link show "+taps[i]), "master br0")
	}
	// A server that is started anew has nothing to do with it.
	vms[0] = vms[0].reopen()
	vms[0].shell(t).run("ping -c 1 -w 20 192.0.2.11")

	gone := func(tap string) {
		t.Helper()
		assert.Eventually(t, func() bool { _, err := net.InterfaceByName(tap); return err != nil }, patience, 5*time.Millisecond, tap)
	}
	require.NoError(t, vms[0].Shutdown(testContext(t)))
	gone(taps[0])
	vms[1].end() // with SIGKILL
	gone(taps[1])
	again := startTest(t, s, vms[1].dir, vms[1].config)
	assert.Contains(t, hostnettest.IP(t, "link show "+taps[1]), "master br0")
	again.end()
}
