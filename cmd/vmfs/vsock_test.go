package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hugelgupf/p9/linux"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/client"
	"vmfs/guest/control"
	"vmfs/vsock"
	"vmfs/vsock/vhostuser"
)

// sizes are how much the tests do. TestVsockSoak does more.
var sizes = struct {
	transfer, connects int
	pause              time.Duration
}{16 << 20, 1000, 2 * time.Second}

// vsockVM makes a server with a VM web that has vsock, and waits for its guest's
// services.
func vsockVM(t *testing.T) *server {
	t.Helper()
	s := newServer(t)
	s.start()
	s.makeVM("web", guestConfig(t)+"vsock.cid=3\n")
	s.must("write", "web/ctl", "start")
	s.awaitVsock()
	return s
}

// awaitVsock waits until the guest of web answers.
func (s *server) awaitVsock() {
	s.t.Helper()
	require.Eventually(s.t, func() bool {
		_, _, status := s.vmfs("", "cat", "web/vsock/13")
		return status == 0
	}, 2*patience, 100*time.Millisecond, "the guest's services never came")
}

// client connects to the server.
func (s *server) client() attached {
	s.t.Helper()
	c := s.attach()
	s.t.Cleanup(func() { c.Close() })
	return c
}

// hostSocket is the device's own socket of a VM.
func (s *server) hostSocket(name string) string {
	return filepath.Join(s.state, "vms", name, "run", "vsock.sock")
}

// ownDevice tells whether the vsock devices of the stories' VMs are processes of vmfs's own
// (vhostuser), and not their VMMs.
func ownDevice() bool { return storiesOn() == hypervisor.TypeQEMU }

// device returns the process that is the vsock device of web: where it is not one of its
// own, the VMM.
func (s *server) device() int {
	s.t.Helper()
	if !ownDevice() {
		return s.pid("web")
	}
	var pid int
	require.Eventually(s.t, func() bool {
		_, err := vhostuser.GetStatus(s.t.Context(), s.hostSocket("web"))
		if err == nil {
			pid, err = vhostuser.Holder(s.t.Context(), s.hostSocket("web"))
		}
		return err == nil && pid != 0
	}, patience, 20*time.Millisecond)
	return pid
}

// deviceStatus is what the device of web says of itself.
func (s *server) deviceStatus() vhostuser.Status {
	s.t.Helper()
	st, err := vhostuser.GetStatus(s.t.Context(), s.hostSocket("web"))
	require.NoError(s.t, err)
	return st
}

// ended waits for the end of a process that is not ours to wait for.
func ended(t *testing.T, pid int) {
	t.Helper()
	require.Eventually(t, func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(stat), ") Z ")
	}, patience, 20*time.Millisecond, "process %d lives", pid)
}

// mustDial gets a stream to a port of web.
func (a attached) mustDial(t *testing.T, port uint32) *client.Stream {
	t.Helper()
	c, err := a.Connect(t.Context(), "web", port)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// pattern is n bytes that no transfer gets right by chance.
func pattern(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// toGuest streams data into the guest, which says what came of it.
func toGuest(t *testing.T, c *client.Stream, data []byte) {
	t.Helper()
	_, err := io.WriteString(c, "-sha256sum\n")
	require.NoError(t, err)
	_, err = c.Write(data)
	require.NoError(t, err)
	require.NoError(t, c.CloseWrite())
	sum, err := io.ReadAll(c)
	require.NoError(t, err)
	assert.Equal(t, fmt.Sprintf("%x", sha256.Sum256(data)), strings.Fields(string(sum) + " -")[0])
}

// fromGuest streams n bytes out of the guest and compares them with what the guest
// says they were.
func fromGuest(t *testing.T, s attached, n int) {
	t.Helper()
	c := s.mustDial(t, 1024)
	// A megabyte of chance again and again: the guest makes no more of it in a second.
	_, err := fmt.Fprintf(c, "-f=/tmp/r$$; head -c 1048576 /dev/urandom >$f; for i in $(seq %d); do cat $f; done; sha256sum <$f; rm $f\n", n>>20)
	require.NoError(t, err)
	require.NoError(t, c.CloseWrite())
	first := make([]byte, 1<<20)
	_, err = io.ReadFull(c, first)
	require.NoError(t, err)
	again := make([]byte, 1<<20)
	for i := 1; i < n>>20; i++ {
		_, err = io.ReadFull(c, again)
		require.NoError(t, err)
		require.True(t, bytes.Equal(first, again), "megabyte %d is not the first one", i)
	}
	sum, err := io.ReadAll(c)
	require.NoError(t, err)
	assert.Equal(t, fmt.Sprintf("%x  -\n", sha256.Sum256(first)), string(sum))
}

// TestVsockGuest does to one guest all that it survives.
func TestVsockGuest(t *testing.T) {
	t.Parallel() // with the other tests that wait for a guest
	s := vsockVM(t)
	c := s.client()

	t.Run("exec", func(t *testing.T) {
		out, errs, status := s.vmfs("", "exec", "web", "sh", "-c", "echo out; echo err >&2; pwd; echo $A; exit 7")
		assert.Equal(t, []any{"out\n/root\n\n", "err\n", 7}, []any{out, errs, status})
		out, errs, status = s.vmfs("in", "exec", "-C", "/tmp", "-e", "A=b c", "web", "sh", "-c", `cat; pwd; echo "$A"`)
		assert.Equal(t, []any{"in/tmp\nb c\n", "", 0}, []any{out, errs, status})
		out, _, status = s.vmfs("", "exec", "web", "-t", "sh", "-c", "tty; stty size")
		assert.Zero(t, status)
		assert.Regexp(t, `^/dev/(pts/\d+|tty\S*)\r?\n24 80\r?\n$`, out)
		_, errs, status = s.vmfs("", "exec", "web", "nosuchprogram")
		assert.Equal(t, 127, status)
		assert.Contains(t, errs, "exec web: guest: run nosuchprogram: ")
		_, errs, status = s.vmfs("", "exec", "nosuch", "true")
		assert.Equal(t, exitNoExec, status)
		assert.Contains(t, errs, "nosuch")
		_, _, status = s.vmfs("", "exec", "web", "sh", "-c", "kill -9 $$")
		assert.Equal(t, 128+9, status)
		_, errs, status = s.vmfs("", "exec", "web")
		assert.Equal(t, exitUsage, status, errs)
	})

	t.Run("exec and signals", func(t *testing.T) {
		cmd := exec.Command("vmfs", "exec", "web", "sh", "-c", "trap 'echo got it; exit 3' TERM; echo ready; while :; do sleep 0.1; done")
		cmd.Env = append(os.Environ(), "VMFS_ADDR="+s.addr)
		out := &logBuffer{}
		cmd.Stdout, cmd.Stderr = out, out
		require.NoError(t, cmd.Start())
		out.expect(t, "ready")
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		var exit *exec.ExitError
		require.ErrorAs(t, cmd.Wait(), &exit)
		assert.Equal(t, 3, exit.ExitCode())
		assert.Contains(t, out.String(), "got it")
	})

	t.Run("rdwr", func(t *testing.T) {
		out, _, status := s.vmfs("echo $((6*7)); false\n", "rdwr", "web/vsock/1024")
		assert.Equal(t, []any{"42\nstatus 1\n", 0}, []any{out, status})
		out, _, _ = s.vmfs("-sort\nb\na\n", "rdwr", "web/vsock/1024")
		assert.Equal(t, "a\nb\n", out, "it sorts when it has seen the end of its input")
		out, _, status = s.vmfs("no ear for this\n", "rdwr", "web/vsock/13")
		assert.Contains(t, out, "UTC")
		assert.Zero(t, status)
		// Written in one go, by whoever does not wait for an answer.
		_, errs, status := s.vmfs("-cat >/tmp/written\nsome text\n", "write", "web/vsock/1024")
		assert.Zero(t, status, errs)
		require.Eventually(t, func() bool { // the file may not be there yet
			out, _, _ := s.vmfs("", "exec", "web", "cat", "/tmp/written")
			return out == "some text\n"
		}, patience, 50*time.Millisecond)
	})

	t.Run("control port", func(t *testing.T) {
		ctl, err := control.Dial(t.Context(), &vsock.Hybrid{Socket: s.hostSocket("web"), Timeout: patience})
		require.NoError(t, err)
		defer ctl.Close()
		now, err := ctl.Clock(t.Context())
		require.NoError(t, err)
		step, err := ctl.SetClock(t.Context(), now.Add(1000*time.Hour))
		require.NoError(t, err)
		assert.InDelta(t, 1000, step.Hours(), 1)
		day, _, _ := s.vmfs("", "cat", "web/vsock/13")
		assert.Contains(t, day, now.Add(1000*time.Hour).UTC().Format("Jan 2006"), "what programs there take for the time")
		step, err = ctl.SetClock(t.Context(), time.Now())
		require.NoError(t, err)
		assert.InDelta(t, -1000, step.Hours(), 1)

		// The guest says the same as the hypervisor, which knows here.
		for _, size := range []int64{224 << 20, 256 << 20} {
			s.must("write", "web/ctl", fmt.Sprintf("memory %d wait %v", size, patience))
			m, err := ctl.Memory(t.Context())
			require.NoError(t, err)
			assert.InDelta(t, size, m.Actual, 1<<20)
			assert.Positive(t, m.Available)
			assert.Less(t, m.Available, m.Actual)
		}
		out, _, _ := s.vmfs("memory\nreseed\n", "rdwr", "web/vsock/1026")
		assert.Regexp(t, `^ok actual=\d+ available=\d+\nerror unknown there is no request "reseed"\n$`, out)
	})

	t.Run("names", func(t *testing.T) {
		for port, want := range map[string]linux.Errno{
			"0": linux.ENOENT, "4294967295": linux.ENOENT, "web": linux.ENOENT, "007": linux.ENOENT,
			"1": linux.ECONNREFUSED, "4294967294": linux.ECONNREFUSED,
		} {
			_, err := c.Open(t.Context(), "web/vsock/"+port, os.O_RDWR)
			var errno linux.Errno
			require.ErrorAs(t, err, &errno, port)
			assert.Equal(t, want, errno, port)
		}
		assert.Contains(t, s.refused("cat", "web/vsock/4242"), "the guest has no listener on this port")
		assert.Equal(t, "clone\nlisten", s.must("ls", "web/vsock"))
	})

	t.Run("both ways", func(t *testing.T) {
		toGuest(t, c.mustDial(t, 1024), pattern(sizes.transfer))
		fromGuest(t, c, sizes.transfer)
	})

	t.Run("half-close", func(t *testing.T) {
		// The guest ends its side first, and goes on reading.
		k := c.mustDial(t, 13)
		_, err := io.ReadAll(k)
		require.NoError(t, err)
		_, err = io.WriteString(k, "still here")
		assert.NoError(t, err)
		status, err := c.ReadFile(t.Context(), k.Dir()+"/status")
		require.NoError(t, err)
		assert.Contains(t, string(status), "state=established\n")
		require.NoError(t, k.CloseWrite())
		// We do, and go on reading.
		k = c.mustDial(t, 7)
		_, err = io.WriteString(k, "echo")
		require.NoError(t, err)
		require.NoError(t, k.CloseWrite())
		text, err := io.ReadAll(k)
		require.NoError(t, err)
		assert.Equal(t, "echo", string(text))
	})

	t.Run("connects", func(t *testing.T) {
		var before vhostuser.Status
		if ownDevice() {
			before = s.deviceStatus()
		}
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range sizes.connects / 8 {
					text, err := c.ReadFile(t.Context(), "web/vsock/13")
					assert.NoError(t, err)
					assert.Contains(t, string(text), "UTC")
				}
			})
		}
		wg.Wait()
		if !ownDevice() {
			return
		}
		assert.GreaterOrEqual(t, s.deviceStatus().Opened-before.Opened, uint64(sizes.connects/8*8))
		require.Eventually(t, func() bool {
			st, err := vhostuser.GetStatus(t.Context(), s.hostSocket("web"))
			return err == nil && st.Streams <= before.Streams
		}, patience, 50*time.Millisecond, "none is left")
	})

	t.Run("stalled reader", func(t *testing.T) {
		stalled := c.mustDial(t, 19)
		_, err := stalled.Read(make([]byte, 1000))
		require.NoError(t, err)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				toGuest(t, c.mustDial(t, 1024), pattern(sizes.transfer/16))
				fromGuest(t, c, sizes.transfer/16)
			})
		}
		wg.Wait()
		_, err = io.ReadFull(stalled, make([]byte, 1<<20))
		assert.NoError(t, err, "it goes on when it is read again")
	})

	t.Run("pause", func(t *testing.T) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			toGuest(t, c.mustDial(t, 1024), pattern(sizes.transfer/4))
			fromGuest(t, c, sizes.transfer/4)
		}()
		time.Sleep(100 * time.Millisecond) // into the transfer
		s.must("write", "web/ctl", "pause")
		// Dialing a guest that stands still times out or is interrupted.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		cmd := exec.CommandContext(ctx, "vmfs", "cat", "web/vsock/13")
		cmd.Env = append(os.Environ(), "VMFS_ADDR="+s.addr)
		assert.Error(t, cmd.Run())
		cancel()
		time.Sleep(sizes.pause)
		assert.Equal(t, "paused", s.must("cat", "web/state"))
		s.must("write", "web/ctl", "resume")
		select {
		case <-done:
		case <-time.After(4 * patience):
			require.Fail(t, "the transfer does not go on after a pause")
		}
	})

	t.Run("listen", func(t *testing.T) {
		log := s.spawn("", "cat", "web/vsock/listen/514")
		require.Eventually(t, func() bool {
			_, _, status := s.vmfs("", "exec", "web", "sh", "-c", "echo from the guest | vsock dial 514")
			return status == 0
		}, patience, 50*time.Millisecond)
		log.expect(t, "from the guest")
		require.Eventually(t, func() bool {
			_, err := os.Stat(vsock.ListenPath(s.hostSocket("web"), 514))
			return errors.Is(err, os.ErrNotExist)
		}, patience, 20*time.Millisecond, "nobody waits any more")
		_, errs, status := s.vmfs("", "exec", "web", "vsock", "dial", "514")
		assert.NotZero(t, status)
		assert.NotEmpty(t, errs)

		// The host ends its side first, and still gets what the guest says later.
		guest := s.spawn("", "exec", "web", "sh", "-c", "until (sleep 1; echo late) | vsock dial 515; do sleep 0.1; done; echo passed")
		k, err := c.Accept(t.Context(), "web", 515)
		require.NoError(t, err)
		require.NoError(t, k.CloseWrite())
		text, err := io.ReadAll(k)
		require.NoError(t, err)
		assert.Equal(t, "late\n", string(text))
		guest.expect(t, "passed")
		require.NoError(t, k.Close())
	})

	t.Run("snapshot", func(t *testing.T) {
		k := c.mustDial(t, 7)
		s.must("write", "web/ctl", "snapshot", "one")
		if ownDevice() { // its state is in no snapshot, so that the guest sees a new one
			endsSoon(t, k)
		} else {
			_, err := io.WriteString(k, "on")
			require.NoError(t, err)
			_, err = io.ReadFull(k, make([]byte, 2))
			require.NoError(t, err)
		}
		s.awaitVsock()
	})

	t.Run("device killed", func(t *testing.T) {
		if !ownDevice() {
			return // TestKilledVMM
		}
		k, idle := c.mustDial(t, 7), c.mustDial(t, 9)
		events := s.hear("web")
		pid := s.device()
		require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		endsSoon(t, k)
		endsSoon(t, idle)
		events.expect(t, " vsock device=restarted pid=")
		assert.NotEqual(t, pid, s.device())
		assert.Equal(t, "running", s.must("cat", "web/state"))
		s.awaitVsock()
		toGuest(t, c.mustDial(t, 1024), pattern(1<<20))

		s.must("write", "web/ctl", "pause")
		pid = s.device()
		require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		require.Eventually(t, func() bool { return s.device() != pid }, patience, 20*time.Millisecond)
		assert.Equal(t, "paused", s.must("cat", "web/state"), "what was paused stays so")
		s.must("write", "web/ctl", "resume")
		toGuest(t, c.mustDial(t, 1024), pattern(1<<20))
	})

	t.Run("server killed", func(t *testing.T) {
		// A stream that is not the server's goes on without it.
		own, err := (&vsock.Hybrid{Socket: s.hostSocket("web")}).DialVsock(t.Context(), 7)
		require.NoError(t, err)
		defer own.Close()
		k, pid := c.mustDial(t, 7), s.device()
		s.kill()
		endsSoon(t, k)
		s.start()
		assert.Equal(t, pid, s.device(), "the device is the same")
		_, err = io.WriteString(own, "ping")
		require.NoError(t, err)
		_, err = io.ReadFull(own, make([]byte, 4))
		require.NoError(t, err)
		c = s.client()
		toGuest(t, c.mustDial(t, 1024), pattern(1<<20))
		if !ownDevice() {
			return
		}

		// The device dies while no server is there, and when one has found it again.
		s.kill()
		require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		s.start()
		require.Eventually(t, func() bool { return s.device() != pid }, patience, 20*time.Millisecond)
		s.awaitVsock()
		pid = s.device()
		s.kill()
		s.start()
		assert.Equal(t, pid, s.device())
		require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		require.Eventually(t, func() bool { return s.device() != pid }, patience, 20*time.Millisecond)
		s.awaitVsock()
		c = s.client()
	})

	for name, again := range map[string]func(){
		"guest reboots": func() { s.vmfs("", "exec", "web", "reboot") },
		"reset":         func() { s.must("write", "web/ctl", "reset") },
	} {
		t.Run(name, func(t *testing.T) {
			console := s.follow("web/console")
			ready := func() int { return strings.Count(console.String(), "vmfs guest ready") }
			require.Eventually(t, func() bool { return ready() > 0 }, patience, 20*time.Millisecond)
			before := ready()
			events := s.hear("web")
			k, waits := c.mustDial(t, 7), c.mustDial(t, 9)
			again()
			endsSoon(t, k)
			endsSoon(t, waits)
			if ownDevice() {
				events.expect(t, " lost=reset")
			} else {
				events.expect(t, " reset state=running")
			}
			require.Eventually(t, func() bool { return ready() > before }, 2*patience, 50*time.Millisecond)
			s.awaitVsock()
			toGuest(t, c.mustDial(t, 1024), pattern(1<<20))
		})
	}

	for _, verb := range []string{"stop", "kill"} {
		t.Run(verb, func(t *testing.T) {
			if s.must("cat", "web/state") != "running" {
				s.must("write", "web/ctl", "start")
				s.awaitVsock()
			}
			k, pid := c.mustDial(t, 7), s.device()
			waiting := s.spawn("", "cat", "web/vsock/listen/9000")
			require.Eventually(t, func() bool {
				_, err := os.Stat(vsock.ListenPath(s.hostSocket("web"), 9000))
				return err == nil
			}, patience, 20*time.Millisecond)
			s.must("write", "web/ctl", verb)
			endsSoon(t, k)
			ended(t, pid)
			waiting.expect(t, "not running")
			_, err := c.Open(t.Context(), "web/vsock/13", os.O_RDONLY)
			var errno linux.Errno
			require.ErrorAs(t, err, &errno)
			assert.Equal(t, linux.ENXIO, errno)
			// At once again: the old device must not get in the way of the new.
			s.must("write", "web/ctl", "start")
			s.awaitVsock()
		})
	}

	t.Run("restore", func(t *testing.T) {
		k := c.mustDial(t, 7)
		s.must("write", "web/ctl", "stop")
		endsSoon(t, k)
		s.must("write", "web/ctl", "restore", "one")
		s.must("write", "web/ctl", "resume")
		s.awaitVsock()
	})
	pid := s.device()
	s.must("write", "web/ctl", "kill")
	ended(t, pid)
}

// endsSoon waits for the end of a stream, which is end of file or an error.
func endsSoon(t *testing.T, k *client.Stream) {
	t.Helper()
	over := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, k)
		over <- err
	}()
	select {
	case <-over:
	case <-time.After(patience):
		require.Fail(t, "the stream does not end")
	}
}

// spawn runs a client command in the background until the test's end, and returns
// what it prints.
func (s *server) spawn(stdin string, args ...string) *logBuffer {
	s.t.Helper()
	buf := &logBuffer{}
	cmd := exec.Command("vmfs", args...)
	cmd.Env = append(os.Environ(), "VMFS_ADDR="+s.addr)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Stdout, cmd.Stderr = buf, buf
	require.NoError(s.t, cmd.Start())
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	s.t.Cleanup(func() { _ = cmd.Process.Kill(); <-done })
	return buf
}

// TestVsockFailedStart has a VM fail to start after its device was started, and
// looks for the device.
func TestVsockFailedStart(t *testing.T) {
	s := newServer(t)
	s.start()
	for name, config := range map[string]string{
		"kernel": "vsock.cid=3\nkernel=/nonexistent/vmlinuz\n",
		"path":   "vsock.cid=3\nvsock.socket=/nonexistent/sock\n",
	} {
		s.makeVM(name, config+hypervisorKey())
		s.refused("write", name+"/ctl", "start")
		assert.Empty(t, s.devices(), name)
	}
}

// devices returns the vsock devices of the server's VMs.
func (s *server) devices() []string {
	var lines []string
	dirs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, d := range dirs {
		line, err := os.ReadFile(d)
		if err == nil && bytes.Contains(line, []byte("vsock-device")) && bytes.Contains(line, []byte(s.dir)) {
			lines = append(lines, string(bytes.ReplaceAll(line, []byte{0}, []byte(" "))))
		}
	}
	return lines
}

// hear follows the events of a running VM of 256 MiB, which begin when they have
// been opened: from when one was heard.
func (s *server) hear(vm string) *logBuffer {
	events := s.follow(vm + "/events")
	for end := time.Now().Add(patience); !strings.Contains(events.String(), " resize "); time.Sleep(50 * time.Millisecond) {
		require.True(s.t, time.Now().Before(end), "no event of %s comes", vm)
		s.must("write", vm+"/memory", "256M")
	}
	return events
}
