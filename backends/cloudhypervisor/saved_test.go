package cloudhypervisor_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/cloudhypervisor"
	"vmfs/backends/hypervisor"
	"vmfs/guest"
	guestexec "vmfs/guest/exec"
	"vmfs/guest/guesttest"
)

// realPatience bounds every step on the real one, which may be an emulated host's.
const realPatience = 3 * time.Minute

// realVM is a VM of the real Cloud Hypervisor.
type realVM struct {
	*cloudhypervisor.VM
	t   testing.TB
	pid int
}

// begun is a VM that was started or restored. It ends with the test.
func begun(t testing.TB) func(pid int, hv hypervisor.Hypervisor, err error) *realVM {
	return func(pid int, hv hypervisor.Hypervisor, err error) *realVM {
		t.Helper()
		require.NoError(t, err)
		v := &realVM{VM: hv.(*cloudhypervisor.VM), t: t, pid: pid}
		go func() { // ends with the handle
			for range v.Events() {
			}
		}()
		t.Cleanup(v.end)
		return v
	}
}

func (v *realVM) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), realPatience)
	v.t.Cleanup(cancel)
	return ctx
}

// end ends the VMM, if it is there.
func (v *realVM) end() {
	_ = v.Shutdown(v.ctx()) // it may be gone
	for range 1000 {
		if _, err := os.Stat(filepath.Join("/proc", strconv.Itoa(v.pid))); err != nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	_ = v.Close()
}

// run runs a line of shell in the guest, once that can be reached, and returns what it prints.
func (v *realVM) run(line string) string {
	v.t.Helper()
	dialer, err := v.VsockDialer()
	require.NoError(v.t, err)
	var conn io.ReadWriteCloser
	require.Eventually(v.t, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		c, err := dialer.DialVsock(ctx, guestexec.FramedPort)
		conn = c
		return err == nil
	}, realPatience, 100*time.Millisecond, "the guest is not reached")
	var out bytes.Buffer
	status, err := guestexec.Run(v.ctx(), conn, guestexec.Command{Args: []string{"sh", "-c", line}, Stdout: &out, Stderr: &out})
	require.NoError(v.t, err)
	require.Zero(v.t, status, "%s: %s", line, &out)
	return strings.TrimSpace(out.String())
}

func (v *realVM) expectState(want hypervisor.VMState) {
	v.t.Helper()
	info, err := v.GetVMInfo(v.ctx())
	require.NoError(v.t, err)
	require.Equal(v.t, want, info.State)
}

// TestRestoredElsewhere saves a VM with a disk, a tap and a lot in its memory, and restores it with
// another disk, tap, identity and CID: with its memory read beforehand, and when the guest
// wants it, in which case the snapshot is removed meanwhile.
func TestRestoredElsewhere(t *testing.T) {
	s := realStarter(t)
	kernel, initrd := guesttest.Fast(t, guest.Options{})
	dir, err := os.MkdirTemp("/tmp", "ch")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	config := hypervisor.VMConfig{
		Name: "web", UUID: "5a0e6d3c-1111-4222-8333-444455556666", MemoryBytes: 256 << 20, HotplugBytes: 128 << 20,
		KernelPath: kernel, InitrdPath: initrd, KernelArgs: "quiet no_timer_check", VsockCID: 3,
		Disks: []hypervisor.DiskConfig{{Path: filepath.Join(dir, "a.img")}}, LogPath: filepath.Join(dir, "log"),
		SerialLogPath: filepath.Join(dir, "console.log"),
	}
	require.NoError(t, os.WriteFile(config.Disks[0].Path, make([]byte, 8<<20), 0o600))
	taps := []string{"vmfstest0", "vmfstest1"}
	if os.Geteuid() == 0 {
		for _, tap := range taps {
			if out, err := exec.Command("ip", "tuntap", "add", "dev", tap, "mode", "tap", "vnet_hdr").CombinedOutput(); err != nil {
				t.Skipf("a tap is needed: %v: %s", err, out)
			}
			t.Cleanup(func() { _ = exec.Command("ip", "link", "del", tap).Run() })
		}
		config.Networks = []hypervisor.NetworkConfig{{TAPDevice: taps[0]}}
	}
	socket := filepath.Join(dir, "run", cloudhypervisor.SocketName)
	v := begun(t)(s.StartVM(t.Context(), nil, "", socket, config))
	sum := v.run("head -c 60000000 /dev/urandom > /tmp/much && md5sum < /tmp/much; cat /proc/sys/kernel/random/boot_id")
	v.run("echo before | dd of=/dev/vda conv=notrunc,fsync")
	require.NoError(t, v.ResizeMemoryAndWait(v.ctx(), 320<<20, realPatience))
	snaps := []string{filepath.Join(dir, "one"), filepath.Join(dir, "two")}
	for _, snap := range snaps {
		began := time.Now()
		require.NoError(t, v.Snapshot(v.ctx(), snap))
		t.Logf("saved in %v", time.Since(began))
		v.expectState(hypervisor.StateRunning)
	}
	v.run("echo after | dd of=/dev/vda conv=notrunc,fsync")
	v.end()

	moved := config
	moved.Name, moved.UUID, moved.VsockCID = "elsewhere", "0e37f9a3-26c6-4d46-9b7e-9d4c4a1f0f55", 4
	moved.Disks = []hypervisor.DiskConfig{{Path: filepath.Join(dir, "b.img")}}
	if config.Networks != nil {
		moved.Networks = []hypervisor.NetworkConfig{{TAPDevice: taps[1]}}
	}
	for i, may := range []bool{false, true} {
		s.Faults(may)
		began := time.Now()
		v = begun(t)(s.RestoreVMWith(t.Context(), nil, "", socket, snaps[i], moved))
		t.Logf("restored, %v, in %v", v.Describe(), time.Since(began))
		v.expectState(hypervisor.StatePaused)
		id, err := v.Identify(v.ctx())
		require.NoError(t, err)
		assert.Equal(t, hypervisor.Identity{Name: moved.Name, UUID: moved.UUID, PID: v.pid}, id)
		require.NoError(t, v.Resume(v.ctx()))
		require.NoError(t, os.RemoveAll(snaps[i]))
		again := filepath.Join(dir, "again")
		require.NoError(t, v.Snapshot(v.ctx(), again), "also while its memory is read")
		v.expectState(hypervisor.StateRunning)
		assert.Equal(t, sum, v.run("md5sum < /tmp/much; cat /proc/sys/kernel/random/boot_id"))
		assert.Equal(t, "before", v.run("head -n 1 /dev/vda"))
		v.run("echo later | dd of=/dev/vda conv=notrunc,fsync")
		info, err := v.GetVMInfo(v.ctx())
		require.NoError(t, err)
		assert.EqualValues(t, 320<<20, *info.MemoryActualSize)
		require.NoError(t, v.ResizeMemoryAndWait(v.ctx(), 192<<20, realPatience))
		b, err := os.ReadFile(moved.Disks[0].Path)
		require.NoError(t, err)
		assert.True(t, bytes.HasPrefix(b, []byte("later\n")))
		b, err = os.ReadFile(config.Disks[0].Path)
		require.NoError(t, err)
		assert.True(t, bytes.HasPrefix(b, []byte("after\n")), "the disk of the first is not touched")
		if config.Networks != nil {
			assert.Contains(t, v.run("cat /sys/class/net/eth0/carrier || ip link set eth0 up && cat /sys/class/net/eth0/carrier"), "1")
		}
		v.end()
		require.NoError(t, os.RemoveAll(again))
	}
}
