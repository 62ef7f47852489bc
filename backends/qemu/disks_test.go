package qemu

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/disk"
	"vmfs/backends/hypervisor"
	"vmfs/guest"
	"vmfs/guest/guesttest"
)

// TestDiskSizes lets disks of each kind be made and grow under a guest that sees it,
// before and after it is restored.
func TestDiskSizes(t *testing.T) {
	t.Parallel() // with the other tests that wait for a guest
	if _, err := exec.LookPath("qemu-img"); err != nil {
		guesttest.Missing(t, "qemu-img is missing: apt-get install qemu-utils")
	}
	s := newTestStarter(t)
	dir, disks := shortDir(t), t.TempDir()
	config := bare(dir)
	config.KernelPath, config.InitrdPath = guesttest.Fast(t, guest.Options{})
	config.KernelArgs = "quiet no_timer_check"
	config.MemoryBytes = 256 * mib
	const none, raw, qcow, limited = 0, 1, 2, 3
	config.Disks = []hypervisor.DiskConfig{
		{Path: sparse(t, filepath.Join(disks, "none"), 8*mib)},
		{Path: filepath.Join(disks, "raw"), Size: 8 * mib},
		{Path: filepath.Join(disks, "q,cow"), Size: 8 * mib, Format: hypervisor.DiskQCOW2},
		{Path: filepath.Join(disks, "limited"), Size: 8 * mib, Format: hypervisor.DiskQCOW2, IOBps: 64 * mib},
	}
	// What a raw image begins with makes it no other.
	header, err := os.OpenFile(config.Disks[none].Path, os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = header.WriteString("QFI\xfb\x00\x00\x00\x03")
	require.NoError(t, errors.Join(err, header.Close()))
	v := startTest(t, s, dir, config)
	v.ready(0)
	sh := v.shell(t)
	sees := func(want ...int64) {
		t.Helper()
		var text string
		for _, n := range want {
			text += fmt.Sprintf("%d ", n*mib/512)
		}
		var got string
		if !assert.Eventually(t, func() bool {
			got = sh.run("for d in /sys/block/vd?; do cat $d/size; done | tr '\\n' ' '") + " "
			return got == text
		}, patience, 20*time.Millisecond) {
			t.Fatalf("the guest sees %s and not %s", got, text)
		}
		for i, d := range config.Disks {
			size, err := disk.Size(d.Path, d.Format)
			require.NoError(t, err)
			assert.Equal(t, want[i]*mib, size, "image %d", i)
		}
	}
	sees(8, 8, 8, 8)
	assert.Equal(t, "QFI", sh.run("head -c 3 /dev/vda"))
	sh.run("echo kept | dd of=/dev/vdc conv=notrunc 2>/dev/null && sync")

	grow := func(i int, bytes int64) error { return v.GrowDisk(testContext(t), i, bytes) }
	require.NoError(t, grow(raw, 16*mib))
	require.NoError(t, grow(qcow, 1024*1024*mib), "to where a qcow2 needs a longer table")
	require.NoError(t, grow(limited, 24*mib))
	sees(8, 16, 1024*1024, 24)
	sh.run("echo far | dd of=/dev/vdc bs=1M seek=1048575 2>/dev/null && sync")
	for i := range config.Disks {
		require.ErrorIs(t, grow(i, 4*mib), hypervisor.ErrInvalid, "disk %d", i)
	}
	require.NoError(t, v.Pause(testContext(t)))
	require.NoError(t, grow(none, 12*mib), "of a VM that is paused")
	require.NoError(t, v.Resume(testContext(t)))
	sees(12, 16, 1024*1024, 24)

	// What a disk got is in the record, and so in a snapshot.
	snap := filepath.Join(t.TempDir(), "snap")
	require.NoError(t, v.Snapshot(testContext(t), snap))
	require.NoError(t, grow(raw, 32*mib))
	require.NoError(t, grow(qcow, 2048*1024*mib))
	sees(12, 32, 2048*1024, 24)
	v.end()

	sizes := func(sizes ...int64) hypervisor.VMConfig {
		c := config
		c.Disks = append([]hypervisor.DiskConfig(nil), c.Disks...)
		for i, n := range sizes {
			c.Disks[i].Size = n * mib
		}
		return c
	}
	restore := func(c hypervisor.VMConfig) (hypervisor.Hypervisor, error) {
		_, hv, err := s.RestoreVMWith(testContext(t), nil, "", filepath.Join(dir, SocketName), snap, c)
		return hv, err
	}
	_, err = restore(sizes(12, 32, 1024*1024, 24))
	require.ErrorIs(t, err, hypervisor.ErrInvalid, "a disk of another size than in the snapshot")
	assert.ErrorContains(t, err, "size of disks")
	assert.EqualValues(t, 32*mib, mustSize(t, config.Disks[raw].Path), "a restore that is refused changes no disk")

	hv, err := restore(sizes(0, 16, 1024*1024, 24))
	require.NoError(t, err)
	v = ended(t, s, dir, config, hv.(*VM))
	require.NoError(t, v.Resume(testContext(t)))
	sh = v.shell(t)
	sees(12, 16, 1024*1024, 24)
	assert.Equal(t, "kept", sh.run("head -n 1 /dev/vdc"))
	require.NoError(t, grow(raw, 20*mib), "after a restore")
	require.NoError(t, grow(limited, 28*mib))
	sees(12, 20, 1024*1024, 28)
	v.end()

	// The next start takes the sizes from its configuration.
	_, _, err = s.StartVM(testContext(t), nil, "", filepath.Join(dir, SocketName), sizes(12, 16, 0, 0))
	require.ErrorIs(t, err, hypervisor.ErrInvalid)
	assert.ErrorContains(t, err, "raw: it has 20971520 bytes, and size says 16777216: an image never shrinks")
	config = sizes(16, 20, 0, 32)
	from := v.serialSize()
	v = startTest(t, s, dir, config)
	v.ready(from)
	sh = v.shell(t)
	sees(16, 20, 1024*1024, 32)
	assert.Equal(t, "far", sh.run("dd if=/dev/vdc bs=1M skip=1048575 2>/dev/null | head -n 1"))
}

func mustSize(t testing.TB, path string) int64 {
	t.Helper()
	fi, err := os.Stat(path)
	require.NoError(t, err)
	return fi.Size()
}

// TestBackingChain starts VMs of disks with other files below them: QEMU has those that are
// declared open, and no other, whatever the guest of one has written there.
func TestBackingChain(t *testing.T) {
	if _, err := exec.LookPath("qemu-img"); err != nil {
		guesttest.Missing(t, "qemu-img is missing: apt-get install qemu-utils")
	}
	s := newTestStarter(t)
	dir, disks := shortDir(t), t.TempDir()
	at := func(name string) string { return filepath.Join(disks, name) }
	img := func(args ...string) {
		t.Helper()
		cmd := exec.Command("qemu-img", args...)
		cmd.Dir = disks
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	require.NoError(t, os.WriteFile(at("secret"), make([]byte, mib), 0o600))
	img("create", "-q", "-f", "qcow2", "-b", "secret", "-F", "raw", "raw") // a raw disk, whose guest has written this
	img("create", "-q", "-f", "qcow2", "-b", "raw", "-F", "raw", "middle", "8M")
	img("create", "-q", "-f", "qcow2", "-b", "middle", "-F", "qcow2", "top")
	config := bare(dir)
	config.Disks = []hypervisor.DiskConfig{
		{Path: at("top"), Format: hypervisor.DiskQCOW2, Size: 16 * mib}, {Path: at("middle"), Format: hypervisor.DiskQCOW2, Readonly: true, IOBps: mib},
	}
	v := startTest(t, s, dir, config)
	var nodes []struct {
		File   string `json:"file"`
		Driver string `json:"drv"`
	}
	require.NoError(t, v.conn.Execute(testContext(t), "query-named-block-nodes", map[string]any{"flat": true}, &nodes))
	drivers, files := map[string]int{}, map[string]int{}
	for _, n := range nodes {
		drivers[n.Driver]++
		if n.Driver == "file" {
			files[filepath.Base(n.File)]++
		}
	}
	assert.Equal(t, map[string]int{"top": 1, "middle": 2, "raw": 2}, files)
	assert.Equal(t, map[string]int{"throttle": 1, "qcow2": 3, "raw": 2, "file": 5}, drivers, "the raw disk is no qcow2")
	v.end()

	b, err := os.ReadFile(at("top"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(at("top"), bytes.Replace(b, []byte("\xe2\x79\x2a\xca"), []byte("none"), 1), 0o600))
	_, _, err = s.StartVM(testContext(t), nil, "", filepath.Join(dir, SocketName), config)
	require.ErrorIs(t, err, hypervisor.ErrInvalid)
	assert.ErrorContains(t, err, "`qemu-img rebase -u -f qcow2 -F raw -b middle "+at("top")+"`")
}
