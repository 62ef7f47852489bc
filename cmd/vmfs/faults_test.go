package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
)

// TestKilledVMM kills the VMM under a VM: the VM is reported as ended, with how, and
// can be started again.
func TestKilledVMM(t *testing.T) {
	s := newServer(t)
	s.start()
	s.makeVM("web", guestConfig(t))
	events := s.follow("web/events")
	s.must("write", "web/ctl", "start")
	first := s.pid("web")
	require.NoError(t, syscall.Kill(first, syscall.SIGKILL))
	s.must("wait", "web", "shutdown", "--timeout", "10s")
	events.expect(t, " exited state=shutdown") // the guest has ended a moment before its VMM
	assert.Contains(t, s.must("cat", "web/info"), "killed")
	assert.Zero(t, s.pid("web"))
	s.must("write", "web/ctl", "start")
	assert.NotEqual(t, first, s.pid("web"))
	s.must("write", "web/ctl", "kill")
}

// TestHungVMM stops the VMM with SIGSTOP: its own commands time out, everything
// else goes on as if nothing were, and it recovers.
func TestHungVMM(t *testing.T) {
	s := newServer(t)
	s.start()
	config := guestConfig(t)
	for _, name := range []string{"hung", "well"} {
		s.makeVM(name, config)
		s.must("write", name+"/ctl", "start")
	}
	pid := s.pid("hung")
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))

	type result struct {
		text string
		took time.Duration
	}
	blocked := make(chan result, 1)
	go func() {
		begin := time.Now()
		_, errs, _ := s.vmfs("", "write", "hung/ctl", "pause")
		blocked <- result{errs, time.Since(begin)}
	}()
	for range 5 {
		begin := time.Now()
		assert.Equal(t, "running", s.must("cat", "hung/state"))
		s.must("ls", "-l")
		s.must("ls", "-l", "hung")
		for _, f := range []string{"ctl", "config", "memory", "capabilities", "info", "error", "log", "pid"} {
			s.must("cat", "hung/"+f)
		}
		s.must("write", "well/ctl", "pause")
		s.must("write", "well/ctl", "resume")
		assert.Less(t, time.Since(begin), 8*time.Second, "14 commands beside a hung VMM")
	}
	r := <-blocked
	assert.Contains(t, r.text, "deadline exceeded", "the error says that it is about time")
	assert.Contains(t, r.text, "hung", "and on which VM")
	assert.Less(t, r.took, 30*time.Second)

	require.NoError(t, syscall.Kill(pid, syscall.SIGCONT))
	require.Eventually(t, func() bool {
		_, _, status := s.vmfs("", "write", "hung/ctl", "reset")
		return status == 0
	}, patience, 100*time.Millisecond, "it recovers")
	for _, name := range []string{"hung", "well"} {
		s.must("write", name+"/ctl", "kill")
		assert.Equal(t, "shutdown", s.must("cat", name+"/state"))
	}
}

// TestKilledServer kills the server at many moments of a start, and looks after
// a restart at whether it knows every VMM there is and every record is whole.
func TestKilledServer(t *testing.T) {
	s := newServer(t)
	s.start()
	s.makeVM("web", guestConfig(t))
	var found int
	for delay := time.Duration(0); delay < 600*time.Millisecond; delay += 40 * time.Millisecond {
		start := exec.Command("vmfs", "write", "web/ctl", "start")
		start.Env = append(os.Environ(), "VMFS_ADDR="+s.addr)
		require.NoError(t, start.Start())
		time.Sleep(delay)
		s.kill()
		_ = start.Wait()
		s.start()
		switch state := s.must("cat", "web/state"); state {
		case "running", "paused":
			found++
			assert.Equal(t, s.vmms(), []int{s.pid("web")}, "killed after %v: the VMM is the one that is known", delay)
			s.must("write", "web/ctl", "kill")
		default:
			assert.Contains(t, []string{"created", "shutdown"}, state)
			assert.Empty(t, s.vmms(), "killed after %v: no orphan", delay)
		}
		require.Eventually(t, func() bool { return len(s.vmms()) == 0 }, patience, 20*time.Millisecond)
		assert.Contains(t, s.must("cat", "web/config"), "hotplug=256M", "the configuration is whole")
	}
	t.Logf("%d of the starts survived their server", found)
	s.must("write", "web/ctl", "start")
	s.must("write", "web/ctl", "kill")
	s.must("rmdir", "web")
}

// TestRestart kills the server under a running VM: console, events, memory and
// control go on with the next one, and a VM that died meanwhile is told of.
func TestRestart(t *testing.T) {
	s := newServer(t)
	s.start()
	config := guestConfig(t)
	for _, name := range []string{"dies", "lives", "paused"} {
		s.makeVM(name, config)
		s.must("write", name+"/ctl", "start")
	}
	s.follow("lives/console").expect(t, "vmfs guest ready")
	s.must("write", "paused/ctl", "pause")
	pids := map[string]int{"dies": s.pid("dies"), "lives": s.pid("lives"), "paused": s.pid("paused")}
	s.kill()
	require.NoError(t, syscall.Kill(pids["dies"], syscall.SIGKILL))
	s.start()

	assert.Equal(t, "shutdown", s.must("cat", "dies/state"))
	assert.Contains(t, s.must("cat", "dies/info"), "reason=")
	assert.Equal(t, "running", s.must("cat", "lives/state"))
	assert.Equal(t, "paused", s.must("cat", "paused/state"))
	assert.Equal(t, pids["lives"], s.pid("lives"))

	events, console := s.follow("lives/events"), s.follow("lives/console")
	console.expect(t, "vmfs guest ready") // the scroll-back from before
	s.must("write", "lives/console", "echo after$((1+1))restart")
	console.expect(t, "after2restart")
	s.must("write", "lives/ctl", "memory", "384M", "wait", "60s")
	assert.Equal(t, "402653184", s.must("cat", "lives/memory"))
	s.must("write", "lives/ctl", "pause")
	events.expect(t, " paused state=paused")
	s.must("write", "paused/ctl", "resume")
	s.must("write", "lives/ctl", "resume")
	s.must("write", "lives/ctl", "poweroff")
	s.must("wait", "lives", "shutdown", "--timeout", "60s")
	assert.Contains(t, s.must("cat", "lives/info"), "guest-shutdown")
	s.must("write", "paused/ctl", "stop")
	assert.Equal(t, "shutdown", s.must("cat", "paused/state"))
	for name := range pids {
		s.must("rmdir", name)
	}
	assert.Empty(t, s.vmms())
}

// TestFailingStarts has starts that cannot succeed: each says so in the VMM's own
// words and leaves neither process nor socket.
func TestFailingStarts(t *testing.T) {
	s := newServer(t)
	s.start()
	config := guestConfig(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).Port
	type failing struct{ config, want string }
	starts := map[string]failing{
		"kernel": {config + "kernel=/nonexistent/vmlinuz\n", "/nonexistent/vmlinuz"},
		"disk":   {config + "disk=path:/nonexistent/x.img\n", "/nonexistent/x.img"},
		"tap":    {config + "net=tap:vmfsnone0\n", "vmfsnone0"},
	}
	if storiesOn() == hypervisor.TypeQEMU {
		starts["port"] = failing{config + fmt.Sprintf("net=user,forward:tcp:127.0.0.1:%d:22\n", port), "Could not set up host forwarding rule"}
		starts["machine"] = failing{config + "qemu.machine=pdp11\n", "unsupported machine type"}
		starts["binary"] = failing{config + "qemu.binary=/nonexistent/qemu\n", "/nonexistent/qemu"}
	}
	for name, c := range starts {
		s.makeVM(name, c.config)
		text := s.refused("write", name+"/ctl", "start")
		assert.Contains(t, text, c.want)
		assert.Contains(t, text, name, "the error names the VM")
		assert.Contains(t, s.must("cat", name+"/error"), c.want)
		assert.Contains(t, []string{"created", "shutdown"}, s.must("cat", name+"/state"))
		sockets, err := filepath.Glob(filepath.Join(s.state, "vms", name, "run", "*"))
		require.NoError(t, err)
		assert.Empty(t, sockets, "no stale socket")
	}
	assert.Empty(t, s.vmms())
}

// TestNoQEMU starts a VM on a host that has no QEMU: the server says so when it
// starts, and the VM what is to be done.
func TestNoQEMU(t *testing.T) {
	vmfs, err := exec.LookPath("vmfs")
	require.NoError(t, err)
	t.Setenv("PATH", filepath.Dir(vmfs))
	s := newServer(t)
	s.start()
	said := func() int { return strings.Count(s.log.String(), `cannot be started" hypervisor=qemu`) }
	require.Eventually(t, func() bool { return said() > 0 }, patience, 10*time.Millisecond)
	assert.NotContains(t, s.must("cat", "version"), "qemu")
	s.makeVM("web", "memory=64M\n")
	assert.Contains(t, s.refused("write", "web/ctl", "start"), "apt-get install qemu-system")
	assert.Equal(t, "created", s.must("cat", "web/state"))
	s.must("rmdir", "web")
	assert.Equal(t, 1, said(), "it is said once")
}

// TestLongState has a state directory whose path leaves no room for sockets.
func TestLongState(t *testing.T) {
	s := newServer(t)
	s.state = filepath.Join(s.dir, strings.Repeat("d", 120))
	s.start()
	s.log.expect(t, "path is so long")
	assert.Contains(t, s.refused("mkdir", "web"), "invalid argument")
	s.log.expect(t, "with this state directory the path of a socket of the VM would be longer")
}

// vmsOf returns the names of the server's VMs.
func vmsOf(s *server) []string {
	names := strings.Fields(s.must("ls"))
	return slices.DeleteFunc(names, func(n string) bool {
		return slices.Contains([]string{"backends", "clone", "ctl", "events", "version"}, strings.TrimSuffix(n, "/"))
	})
}
