package qemu

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/handle"
	"vmfs/backends/hypervisor"
	"vmfs/guest"
	"vmfs/guest/guesttest"
)

// TestArm64Guest boots Debian's kernel for arm64 to user space, and has the guest
// take part in what happens to its VM.
func TestArm64Guest(t *testing.T) {
	t.Parallel() // with the other tests that wait for a guest
	s := newTestStarter(t)
	program, err := exec.LookPath("qemu-system-aarch64")
	if err != nil {
		guesttest.Missing(t, "qemu-system-aarch64 is missing: apt-get install qemu-system-arm")
	}
	dir := shortDir(t)
	config := bare(dir)
	config.Extras = map[string]string{"qemu.binary": program, "qemu.accel": accelTCG, "qemu.watchdog": "pause"}
	config.KernelPath, config.InitrdPath = guesttest.Build(t, guest.Options{Arch: "arm64", ExtraModules: []string{"i6300esb"}})
	config.KernelArgs = "quiet vmfs.net=user"
	config.VCPUs, config.MemoryBytes, config.HotplugBytes = 2, 256*mib, 256*mib
	config.Disks = []hypervisor.DiskConfig{{Path: sparse(t, filepath.Join(dir, "disk"), mib)}}
	config.Networks = []hypervisor.NetworkConfig{{User: true}}
	v := startTest(t, s, dir, config)
	v.ready(0)
	sh := v.shell(t)
	assert.Equal(t, "aarch64 2", sh.run("echo $(uname -m) $(nproc)"))
	assert.Contains(t, sh.run("readlink -f /sys/class/net/eth0/device"), firstNetwork)
	assert.Contains(t, sh.run("ip -4 -o addr show eth0"), "10.0.2.15/24")

	// The guest says in its own words what memory it has, once it has used it.
	resize := func(target int64, said string) {
		t.Helper()
		from := v.serialSize()
		require.NoError(t, v.ResizeMemoryAndWait(testContext(t), target, patience))
		require.Eventually(t, func() bool {
			b, err := os.ReadFile(config.SerialLogPath)
			return err == nil && bytes.Contains(b[from:], []byte("vmfs guest: memory "+said+" MiB"))
		}, patience, 20*time.Millisecond, "the guest does not say that it has %s MiB", said)
	}
	resize(400*mib, "400")
	resize(386*mib, "386")
	resize(256*mib, "256")
	resize(200*mib, "200")
	resize(256*mib, "256")

	sh.run("echo before | dd of=/dev/vda conv=notrunc 2>/dev/null && sync; KEPT=kept")
	snap := filepath.Join(t.TempDir(), "snap")
	require.NoError(t, v.Snapshot(testContext(t), snap))
	assert.Equal(t, hypervisor.StateRunning, v.info().State)
	sh.run("echo after | dd of=/dev/vda conv=notrunc 2>/dev/null && sync")
	require.NoError(t, sh.conn.Close())

	// The power button of a machine without ACPI is a GPIO key.
	powerOff := func() {
		t.Helper()
		mark := v.events.len()
		require.NoError(t, v.DeleteVM(testContext(t)))
		e := v.events.await(t, mark, "end", kind(hypervisor.EventShutdown))
		assert.Equal(t, handle.ReasonGuestShutdown, e.Reason)
		require.NoError(t, v.Child.Await(testContext(t), patience))
	}
	powerOff()

	_, hv, err := s.RestoreVM(testContext(t), nil, "", filepath.Join(dir, SocketName), snap)
	require.NoError(t, err)
	v = ended(t, s, dir, config, hv.(*VM))
	assert.Equal(t, hypervisor.StatePaused, v.info().State)
	require.NoError(t, v.Resume(testContext(t)))
	sh = v.shell(t)
	assert.Equal(t, "kept before", sh.run("echo 3 > /proc/sys/vm/drop_caches; echo $KEPT $(head -n 1 /dev/vda)"))

	// A watchdog that nobody feeds stops the VM, and it can go on.
	mark := v.events.len()
	_, err = io.WriteString(sh.conn, "watchdog -F -T 2 -t 1000 /dev/watchdog\r")
	require.NoError(t, err)
	e := v.events.await(t, mark, "watchdog", kind(hypervisor.EventWatchdog))
	assert.Equal(t, reasonWatchdog, e.Reason)
	e = v.events.await(t, mark, "pause", kind(hypervisor.EventPaused))
	assert.Equal(t, reasonWatchdog, e.Reason)
	info := v.info()
	assert.Equal(t, hypervisor.StatePaused, info.State)
	assert.Equal(t, reasonWatchdog, info.Reason)
	require.NoError(t, v.Resume(testContext(t)))
	_, err = io.WriteString(sh.conn, "\x03") // to the watchdog's feeder
	require.NoError(t, err)
	assert.Equal(t, "kept", sh.run("echo $KEPT"))
	powerOff()
}
