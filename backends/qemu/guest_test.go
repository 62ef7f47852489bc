package qemu

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/handle"
	"vmfs/backends/hostnet/hostnettest"
	"vmfs/backends/hypervisor"
	"vmfs/guest"
	"vmfs/guest/guesttest"
)

// A shell is the guest's, at its console.
type shell struct {
	t    testing.TB
	conn io.ReadWriteCloser

	mu    sync.Mutex // guards the fields below
	out   []byte
	ended bool
	grown chan struct{}
	n     int
}

func (v *testVM) shell(t testing.TB) *shell {
	t.Helper()
	conn, err := v.OpenConsole(testContext(t))
	require.NoError(t, err)
	sh := &shell{t: t, conn: conn, grown: make(chan struct{})}
	go func() { // ends with the connection
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			sh.mu.Lock()
			sh.out = append(sh.out, bytes.ReplaceAll(buf[:n], []byte("\r"), nil)...)
			sh.ended = err != nil
			close(sh.grown)
			sh.grown = make(chan struct{})
			sh.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { _ = conn.Close() }) // may be closed
	return sh
}

// agentLine is what the guest's agent tells whenever it happens.
var agentLine = regexp.MustCompile(`(?m)^vmfs guest: .*\n`)

// send begins a command and returns the mark of its end.
func (sh *shell) send(command string) (mark string) {
	sh.t.Helper()
	sh.mu.Lock()
	sh.n++
	mark = fmt.Sprintf("END-%d-", sh.n)
	sh.out = nil
	sh.mu.Unlock()
	// What the terminal echoes has quotes where the output has none.
	_, err := io.WriteString(sh.conn, "echo B\"\"EGIN; "+command+"; echo E\"\"ND-"+strconv.Itoa(sh.n)+"-$?\r")
	require.NoError(sh.t, err)
	return mark
}

// await waits for the end of a command, and returns its output and exit status.
func (sh *shell) await(mark string) (output, status string) {
	sh.t.Helper()
	deadline := time.After(patience)
	for {
		sh.mu.Lock()
		out, ended, grown := string(sh.out), sh.ended, sh.grown
		sh.mu.Unlock()
		if before, after, ok := strings.Cut(out, mark); ok {
			if status, _, ok := strings.Cut(after, "\n"); ok {
				_, before, _ = strings.Cut(before, "BEGIN\n")
				return strings.TrimSpace(agentLine.ReplaceAllString(before, "")), status
			}
		}
		if ended {
			sh.t.Fatalf("the console has ended after %q", out)
		}
		select {
		case <-grown:
		case <-deadline:
			sh.t.Fatalf("the command has not ended; the console has %q", out)
		}
	}
}

// run runs a command that succeeds.
func (sh *shell) run(command string) string {
	sh.t.Helper()
	out, status := sh.await(sh.send(command))
	require.Equal(sh.t, "0", status, "%s: %s", command, out)
	return out
}

// ready waits for the guest of the boot whose output begins at from.
func (v *testVM) ready(from int64) {
	v.t.Helper()
	require.Eventually(v.t, func() bool {
		b, err := os.ReadFile(v.config.SerialLogPath)
		return err == nil && bytes.Contains(b[min(from, int64(len(b))):], []byte("vmfs guest ready"))
	}, patience, 20*time.Millisecond, "the guest does not get ready")
}

func (v *testVM) serialSize() int64 {
	fi, err := os.Stat(v.config.SerialLogPath)
	require.NoError(v.t, err)
	return fi.Size()
}

// smallFS mounts a file system of the size, which the test's end unmounts.
func smallFS(t testing.TB, size string) string {
	t.Helper()
	dir := shortDir(t)
	out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size="+size, "vmfs-test", dir).CombinedOutput()
	if err != nil {
		guesttest.Missing(t, fmt.Sprintf("a small file system cannot be mounted (run as root): %v: %s", err, out))
	}
	t.Cleanup(func() {
		out, err := exec.Command("umount", dir).CombinedOutput()
		assert.NoError(t, err, "%s", out)
	})
	return dir
}

func sparse(t testing.TB, path string, size int64) string {
	t.Helper()
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	require.NoError(t, os.Truncate(path, size))
	return path
}

// firstNetwork is where every guest finds its first network device.
const firstNetwork = "/0000:00:10.0/"

// TestGuest goes through what takes a guest to see, on one VM that boots once.
func TestGuest(t *testing.T) {
	t.Parallel() // with the other tests that wait for a guest
	s := newTestStarter(t)
	if _, err := exec.LookPath("qemu-img"); err != nil {
		guesttest.Missing(t, "qemu-img is missing: apt-get install qemu-utils")
	}
	dir, disks := shortDir(t), t.TempDir()
	config := bare(dir)
	config.KernelPath, config.InitrdPath = guesttest.Fast(t, guest.Options{})
	config.KernelArgs = `quiet no_timer_check vmfs.net=user vmfs.test="a, b"`
	config.MemoryBytes, config.HotplugBytes = 256*mib, 128*mib
	port := hostnettest.FreePort(t)
	config.Networks = []hypervisor.NetworkConfig{{User: true, MAC: "52:54:00:aa:bb:cc", Forwards: []string{"tcp:127.0.0.1:" + port + ":7000"}}}

	raw := sparse(t, filepath.Join(disks, "raw"), 8*mib)
	qcow := filepath.Join(disks, "q,cow")
	out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", qcow, "8M").CombinedOutput()
	require.NoError(t, err, "%s", out)
	readonly := sparse(t, filepath.Join(disks, "readonly"), mib)
	limited := sparse(t, filepath.Join(disks, "limited"), 64*mib)
	full := sparse(t, filepath.Join(smallFS(t, "2m"), "full"), 16*mib)
	config.Disks = []hypervisor.DiskConfig{
		{Path: raw},
		{Path: qcow, Format: hypervisor.DiskQCOW2},
		{Path: readonly, Readonly: true},
		{Path: limited, IOBps: 2 * mib, IOBurstBps: 8 * mib},
		{Path: full},
	}
	v := startTest(t, s, dir, config)
	v.ready(0)
	sh := v.shell(t)

	t.Run("configuration", func(t *testing.T) {
		assert.Contains(t, sh.run("cat /proc/cmdline"), config.KernelArgs)
		assert.Equal(t, "52:54:00:aa:bb:cc", sh.run("cat /sys/class/net/eth0/address"))
		// With other disks or none it is in the same place: see TestPasst.
		assert.Contains(t, sh.run("readlink -f /sys/class/net/eth0/device"), firstNetwork)
		assert.Equal(t, "disk0 disk1 disk2 disk3 disk4", sh.run("echo $(for d in /sys/block/vd?; do cat $d/serial; echo; done)"))
		assert.Equal(t, "0 0 1 0 0", sh.run("echo $(cat /sys/block/vd?/ro)"))
		assert.Equal(t, "16384 16384 2048 131072 32768", sh.run("echo $(cat /sys/block/vd?/size)"))
	})
	t.Run("forwarded port", func(t *testing.T) {
		mark := sh.send("echo from the guest | nc -l -p 7000")
		var got []byte
		require.Eventually(t, func() bool { // until the guest listens
			c, err := net.Dial("tcp", "127.0.0.1:"+port)
			if err != nil {
				return false
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(patience))
			got, _ = io.ReadAll(c)
			return len(got) > 0
		}, patience, 50*time.Millisecond)
		assert.Equal(t, "from the guest\n", string(got))
		sh.await(mark)
	})
	t.Run("limits", func(t *testing.T) {
		read := func(mb, from int) time.Duration {
			times := sh.run(fmt.Sprintf("cut -d' ' -f1 /proc/uptime; dd if=/dev/vdd of=/dev/null bs=256k count=%d skip=%d iflag=direct 2>/dev/null; cut -d' ' -f1 /proc/uptime", mb*4, from*4))
			var a, b float64
			_, err := fmt.Sscan(times, &a, &b)
			require.NoError(t, err, times)
			return time.Duration((b - a) * float64(time.Second))
		}
		burst := read(6, 0)
		read(4, 6) // the rest of what may come at once
		sustained := read(6, 10)
		rate := func(mb int, d time.Duration) float64 { return float64(mb) / d.Seconds() }
		t.Logf("burst %.1f MiB/s, sustained %.1f MiB/s", rate(6, burst), rate(6, sustained))
		assert.Less(t, rate(6, sustained), 2.0*1.3, "MiB/s sustained, of 2 allowed")
		assert.Greater(t, rate(6, sustained), 2.0*0.5, "MiB/s sustained, of 2 allowed")
		assert.Greater(t, rate(6, burst), 2.0*1.5, "MiB/s in a burst, of 8 allowed")
	})
	t.Run("full disk", func(t *testing.T) {
		mark := v.events.len()
		end := sh.send("dd if=/dev/zero bs=64k count=128 2>/dev/null | tr '\\0' x | dd of=/dev/vde bs=64k oflag=direct iflag=fullblock 2>/dev/null")
		e := v.events.await(t, mark, "I/O error", kind(hypervisor.EventIOError))
		assert.Equal(t, hypervisor.StatePaused, e.State)
		assert.Equal(t, reasonIOError, e.Reason)
		assert.Contains(t, e.Detail, hypervisor.Detail{Key: "nospace", Value: "true"})
		assert.Contains(t, e.Detail, hypervisor.Detail{Key: "disk", Value: "disk4"})
		e = v.events.await(t, mark, "pause", kind(hypervisor.EventPaused))
		assert.Equal(t, reasonIOError, e.Reason)
		info := v.info()
		assert.Equal(t, hypervisor.StatePaused, info.State)
		assert.Equal(t, reasonIOError, info.Reason)
		require.ErrorIs(t, v.Snapshot(testContext(t), t.TempDir()), hypervisor.ErrBusy, "a snapshot of a VM that waits for its disk")

		// With room again it goes on, and nothing is lost.
		out, err := exec.Command("mount", "-o", "remount,size=32m", filepath.Dir(full)).CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.NoError(t, v.Resume(testContext(t)))
		_, status := sh.await(end)
		assert.Equal(t, "0", status)
		b, err := os.ReadFile(full)
		require.NoError(t, err)
		assert.Equal(t, 8*mib, bytes.Count(b, []byte{'x'}))
	})
	t.Run("memory after a reset", func(t *testing.T) {
		resetAt := func(target int64) {
			require.NoError(t, v.ResizeMemoryAndWait(testContext(t), target, patience))
			from := v.serialSize()
			require.NoError(t, v.Reset(testContext(t)))
			v.ready(from)
		}
		resetAt(320 * mib)
		require.NoError(t, v.ResizeMemoryAndWait(testContext(t), 320*mib, patience))
		changed, forget := v.wait()
		defer forget()
		resetAt(200 * mib)
		for { // without being asked
			actual, err := v.actualMemory(testContext(t))
			require.NoError(t, err)
			if actual == 200*mib {
				break
			}
			select {
			case <-changed:
			case <-time.After(patience):
				t.Fatalf("%d bytes after a reset", actual)
			}
		}
		require.NoError(t, v.ResizeMemoryAndWait(testContext(t), 256*mib, patience))
	})

	put := func(text string) {
		for _, dev := range []string{"vda", "vdb"} {
			sh.run("echo " + text + " | dd of=/dev/" + dev + " conv=notrunc 2>/dev/null && sync")
		}
	}
	get := func() string {
		return sh.run("echo 3 > /proc/sys/vm/drop_caches; for d in vda vdb; do head -n 1 /dev/$d; done")
	}
	snap := filepath.Join(t.TempDir(), "snap")
	t.Run("snapshot with disks", func(t *testing.T) {
		put("before")
		sh.run("KEPT=remembered")
		require.NoError(t, v.Snapshot(testContext(t), snap))
		put("after")
		assert.Equal(t, "after\nafter", get())
		names := listing(t, snap)
		assert.Equal(t, []string{"disk0", "disk1", "disk3", "disk4", memoryFile, manifestFile}, bases(names))
		require.Error(t, v.Snapshot(testContext(t), snap), "a snapshot is not written over another")
		assert.Equal(t, hypervisor.StateRunning, v.info().State)
	})
	t.Run("cancelled snapshot", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "cancelled")
		ctx, cancel := context.WithCancel(testContext(t))
		sub := v.conn.Subscribe()
		defer sub.Close()
		go func() {
			for {
				ev, err := sub.Next(ctx)
				if err != nil || ev.Event == "MIGRATION" {
					cancel()
					return
				}
			}
		}()
		err := v.Snapshot(ctx, dir)
		require.ErrorIs(t, err, context.Canceled)
		assert.Empty(t, listing(t, dir))
		assert.Equal(t, hypervisor.StateRunning, v.info().State)
		sh.run("true")
	})
	t.Run("snapshot on a full disk", func(t *testing.T) {
		dir := filepath.Join(smallFS(t, "4m"), "snap")
		err := v.Snapshot(testContext(t), dir)
		require.Error(t, err)
		assert.Empty(t, listing(t, dir))
		assert.Equal(t, hypervisor.StateRunning, v.info().State)
		sh.run("true")
	})
	t.Run("guest ends while nobody looks", func(t *testing.T) {
		pid := v.Child.PID
		sh.run("{ sleep 1; poweroff; } & true")
		require.NoError(t, sh.conn.Close())
		require.NoError(t, v.Close())
		// The guest's last words are in its log; QEMU stays.
		require.Eventually(t, func() bool {
			b, err := os.ReadFile(config.SerialLogPath)
			return err == nil && bytes.Contains(b, []byte("vmfs guest: powering off"))
		}, patience, 20*time.Millisecond)
		time.Sleep(time.Second) // for the guest to get from there to its end
		require.NotEmpty(t, qemusOf(t, dir))
		vm, err := s.Open(filepath.Join(dir, SocketName))
		require.NoError(t, err)
		again := ended(t, s, dir, config, vm)
		e := again.events.await(t, 0, "end", kind(hypervisor.EventShutdown))
		assert.Equal(t, handle.ReasonGuestShutdown, e.Reason)
		again.events.awaitClosed(t)
		require.NoError(t, v.Child.Await(testContext(t), patience))
		assert.Equal(t, "exit status 0", v.Child.How())
		assert.Equal(t, pid, v.Child.PID)
	})
	t.Run("restore with disks", func(t *testing.T) {
		require.NoError(t, os.Remove(qcow), "a disk that was removed comes back")
		_, hv, err := s.RestoreVM(testContext(t), nil, "", filepath.Join(dir, SocketName), snap)
		require.NoError(t, err)
		v = ended(t, s, dir, config, hv.(*VM))
		assert.Equal(t, hypervisor.StatePaused, v.info().State)
		assert.Empty(t, v.info().Reason)
		assert.Equal(t, []string{"limited", "q,cow", "raw", "readonly"}, bases(listing(t, disks)), "nothing is left beside the disks")
		require.NoError(t, v.Resume(testContext(t)))
		sh = v.shell(t)
		assert.Equal(t, "remembered", sh.run("echo $KEPT"))
		assert.Equal(t, "before\nbefore", get())
		b, err := os.ReadFile(raw)
		require.NoError(t, err)
		assert.True(t, bytes.HasPrefix(b, []byte("before\n")))
		put("later")
	})
	t.Run("restore of what was damaged", func(t *testing.T) {
		v.end()
		require.NoError(t, v.VM.dir.Clear(), "what the killed QEMU left")
		disk, err := os.ReadFile(raw)
		require.NoError(t, err)
		require.True(t, bytes.HasPrefix(disk, []byte("later\n")))
		refused := func(says ...string) {
			t.Helper()
			_, hv, err := s.RestoreVM(testContext(t), nil, "", filepath.Join(dir, SocketName), snap)
			require.Error(t, err)
			require.True(t, hv == nil)
			for _, w := range says {
				assert.ErrorContains(t, err, w)
			}
			expectNothing(t, dir)
			now, err := os.ReadFile(raw)
			require.NoError(t, err)
			assert.True(t, bytes.Equal(disk, now), "the disk was changed by a restore that failed")
		}
		change := func(path string, how func([]byte) []byte) (undo func()) {
			t.Helper()
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			fi, err := os.Stat(path)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(path, how(bytes.Clone(b)), 0o600))
			return func() {
				require.NoError(t, os.WriteFile(path, b, 0o600))
				require.NoError(t, os.Chtimes(path, fi.ModTime(), fi.ModTime()))
			}
		}
		for _, name := range []string{memoryFile, "disk1"} {
			undo := change(filepath.Join(snap, name), func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
			refused(name, "damaged", "checksum")
			undo()
			undo = change(filepath.Join(snap, name), func(b []byte) []byte { return b[:len(b)-1] })
			refused(name, "damaged", "bytes")
			undo()
		}
		undo := change(readonly, func(b []byte) []byte { return append(b, 1) })
		refused(readonly, "not as it was at the snapshot")
		undo()
		undo = change(filepath.Join(snap, manifestFile), func(b []byte) []byte {
			return bytes.Replace(b, []byte(manifestFormat), []byte("vmfs qemu snapshot 99"), 1)
		})
		refused("snapshot 99")
		undo()
		// QEMU itself refuses what the manifest cannot know.
		undo = change(filepath.Join(snap, manifestFile), func(b []byte) []byte {
			return bytes.Replace(b, []byte(`"hotplugBytes": 134217728`), []byte(`"hotplugBytes": 67108864`), 1)
		})
		refused("QEMU ended")
		undo()
		// Undamaged it still works.
		_, hv, err := s.RestoreVM(testContext(t), nil, "", filepath.Join(dir, SocketName), snap)
		require.NoError(t, err)
		ended(t, s, dir, config, hv.(*VM)).end()
	})
}

func bases(paths []string) []string {
	var names []string
	for _, p := range paths {
		names = append(names, filepath.Base(p))
	}
	return names
}

// listing is all in a directory, which may be missing.
func listing(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if os.IsNotExist(err) {
		return nil
	}
	require.NoError(t, err)
	var paths []string
	for _, e := range entries {
		paths = append(paths, filepath.Join(dir, e.Name()))
	}
	return paths
}
