package cloudhypervisor_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/cloudhypervisor"
	"vmfs/backends/hypervisor"
	"vmfs/guest"
	"vmfs/guest/guesttest"
)

// TestRealDisks has the real one limit a disk, grow one in qcow2, and refuse images that are not
// what they are declared to be.
func TestRealDisks(t *testing.T) {
	s := realStarter(t)
	if _, err := exec.LookPath("qemu-img"); err != nil {
		guesttest.Missing(t, "qemu-img is missing: apt-get install qemu-utils")
	}
	const mib = int64(1) << 20
	dir, err := os.MkdirTemp("/tmp", "vmfs") // short enough for sockets
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	config := hypervisor.VMConfig{
		Name: "disks", UUID: "5a0e6d3c-1111-4222-8333-444455556666", MemoryBytes: 256 * mib, KernelArgs: "quiet no_timer_check",
		SerialLogPath: filepath.Join(dir, "serial.log"), LogPath: filepath.Join(dir, "log"),
		Disks: []hypervisor.DiskConfig{
			{Path: filepath.Join(dir, "limited"), Size: 64 * mib, IOBps: 2 * mib, IOBurstBps: 8 * mib},
			{Path: filepath.Join(dir, "q,cow"), Size: 64 * mib, Format: hypervisor.DiskQCOW2},
		},
	}
	config.KernelPath, config.InitrdPath = guesttest.Fast(t, guest.Options{})
	start := func(c hypervisor.VMConfig) (hypervisor.Hypervisor, error) {
		_, hv, err := s.StartVM(t.Context(), nil, "", filepath.Join(dir, "run", cloudhypervisor.SocketName), c)
		return hv, err
	}
	hv, err := start(config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = hypervisor.CloseHandle(hv) })
	said := func(form string) (found []string) {
		t.Helper()
		re := regexp.MustCompile(form)
		require.Eventually(t, func() bool {
			b, err := os.ReadFile(config.SerialLogPath)
			found = re.FindStringSubmatch(string(b))
			return err == nil && found != nil
		}, 3*time.Minute, 50*time.Millisecond, "the guest does not say %s", form)
		return found
	}
	said("vmfs guest ready")
	conn, err := hv.(hypervisor.Console).OpenConsole(t.Context())
	require.NoError(t, err)
	defer conn.Close()
	go func() { _, _ = io.Copy(io.Discard, conn) }() // ends with the connection
	read := func(n, from int) (seconds float64) {
		t.Helper()
		_, err := fmt.Fprintf(conn, "a=$(cut -d' ' -f1 /proc/uptime); dd if=/dev/vda of=/dev/null bs=256k count=%d skip=%d iflag=direct 2>/dev/null; echo from%d $a $(cut -d' ' -f1 /proc/uptime)\r", 4*n, 4*from, from)
		require.NoError(t, err)
		m := said(fmt.Sprintf(`from%d ([0-9.]+) ([0-9.]+)`, from))
		var a, b float64
		_, err = fmt.Sscan(m[1]+" "+m[2], &a, &b)
		require.NoError(t, err)
		return b - a
	}
	burst, sustained := read(7, 0), 0.0
	read(2, 7) // the rest of what may come at once, and more
	sustained = read(8, 9)
	t.Logf("of 2 MiB/s and bursts of 8: 7 MiB in %.2f s, 8 MiB later in %.2f s", burst, sustained)
	assert.Less(t, burst, 2.0)
	assert.InDelta(t, 4, sustained, 0.8, "8 MiB at 2 MiB/s")

	require.NoError(t, hv.(hypervisor.DiskGrower).GrowDisk(t.Context(), 1, 1<<40))
	_, err = io.WriteString(conn, "until [ $(cat /sys/block/vdb/size) = 2147483648 ]; do usleep 10000; done; echo gr''own\r")
	require.NoError(t, err)
	said("grown")
	require.NoError(t, hv.Shutdown(t.Context()))
	require.Eventually(t, func() bool {
		_, err := hv.GetVMInfo(t.Context())
		return err != nil
	}, time.Minute, 20*time.Millisecond)

	raw, over := filepath.Join(dir, "raw"), filepath.Join(dir, "over")
	require.NoError(t, exec.Command("qemu-img", "create", "-q", "-f", "qcow2", raw, "64M").Run())
	require.NoError(t, exec.Command("qemu-img", "create", "-q", "-f", "qcow2", "-b", config.Disks[0].Path, "-F", "raw", over).Run())
	for _, d := range []hypervisor.DiskConfig{{Path: raw}, {Path: over, Format: hypervisor.DiskQCOW2}} {
		c := config
		c.Disks = []hypervisor.DiskConfig{d}
		refused, err := start(c)
		if !assert.Error(t, err, "%+v", d) {
			_ = refused.Shutdown(t.Context())
			continue
		}
		t.Log(err)
	}
}
