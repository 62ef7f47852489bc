package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// attacked starts a server with a VM that others may read, and a listener where clients
// are nobody. It may have as many descriptors as most Linux systems give.
func attacked(t *testing.T) *server {
	s := newServer(t)
	s.under = []string{"sh", "-c", `ulimit -n 1024 && exec "$@"`, "sh"}
	s.start("--listen", "tcp!127.0.0.1!0")
	s.makeShared()
	s.must("mkdir", "private")
	return s
}

// makeShared makes a VM that everybody may read, and starts it.
func (s *server) makeShared() {
	root := s.attach()
	defer root.Close()
	require.NoError(s.t, root.Mkdir(context.Background(), "web", 0o755))
	require.NoError(s.t, root.send("web/config", "hypervisor=sim\nmemory=64M"))
	require.NoError(s.t, root.send("web/ctl", "start"))
}

// TestAttacks has clients without any right do their worst, and who runs the server look
// at its VMs meanwhile: each of these has killed a server, or kept all others out of it.
func TestAttacks(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("they come from all of loopback, and /proc says what they cost")
	}
	s := attacked(t)
	// How much is allowed at most, since what is not costs nothing, and that something is.
	most := map[string]int{
		"connections": 512 / 2, "events": 128 << 20 / (20 << 10), "log": 12000, "reads": 256 << 20 / (12 << 10), "messages": 1020, "errors": 0, "requests": 64,
	}
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			reached := false
			err := a.run(s.tcp, func() bool { return false }, func(allowed int) {
				reached = true
				assert.LessOrEqual(t, allowed, most[a.name])
				assert.Equal(t, most[a.name] > 0, allowed > 0)
				names := s.must("ls")
				assert.Contains(t, names, "web")
				assert.Contains(t, names, "private")
				assert.Equal(t, "running", s.must("cat", "web/state"))
				s.must("cat", "web/log")
				t.Logf("%d allowed, %s", allowed, s.takes(t))
			})
			require.NoError(t, err)
			assert.True(t, reached)
		})
	}
	require.NoError(t, s.cmd.Process.Signal(os.Interrupt))
	require.NoError(t, s.cmd.Wait())
	s.cmd = nil
	assert.NotContains(t, s.log.String(), "accept failed")
	assert.NotContains(t, s.log.String(), "panic")
}

// takes says what the server takes of the host, which is not too much.
func (s *server) takes(t *testing.T) string {
	proc := filepath.Join("/proc", strconv.Itoa(s.cmd.Process.Pid))
	files, err := os.ReadDir(filepath.Join(proc, "fd"))
	require.NoError(t, err)
	assert.Less(t, len(files), 1024-100, "there are descriptors left")
	status, err := os.ReadFile(filepath.Join(proc, "status"))
	require.NoError(t, err)
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	kb, err := strconv.Atoi(strings.Fields(rest)[0])
	require.NoError(t, err)
	assert.Less(t, kb, 2<<20, "the race detector takes several times what it watches")
	return fmt.Sprintf("%d descriptors, %d MB", len(files), kb>>10)
}

// attackTime is how long each attack is measured.
const attackTime = 4 * time.Second

// TestBenchAttacks measures how long another client waits while each attack goes on, and
// prints the table of docs/security.md. The attacker has one core, the server and the other
// client another; beside it a process that does nothing but take a core has the one or the
// other.
func TestBenchAttacks(t *testing.T) {
	if os.Getenv("VMFS_BENCH") != "attacks" {
		t.Skip("takes a minute, and two cores: make bench-attacks")
	}
	require.GreaterOrEqual(t, runtime.NumCPU(), 2)
	self, err := exec.LookPath("vmfs-attack")
	require.NoError(t, err)
	useBuilt(t)
	s := newServer(t)
	s.under = []string{"taskset", "-c", "1"}
	s.start("--listen", "tcp!127.0.0.1!0")
	s.makeShared()

	// beside measures the client while something runs on a core.
	beside := func(core, what string) []string {
		length := (attackTime + time.Second).String()
		other := exec.Command("taskset", "-c", core, self, what, s.tcp, length)
		if what != "" {
			require.NoError(t, other.Start())
			defer func() { other.Process.Kill(); other.Wait() }()
			time.Sleep(500 * time.Millisecond) // it has begun
		}
		out, err := exec.Command("taskset", "-c", "1", self, "client", s.addr, attackTime.String()).CombinedOutput()
		require.NoError(t, err, string(out))
		return strings.Fields(string(out))
	}
	fmt.Printf("\n%s, %d CPUs, %s\n\n| beside | reads | p50 | p99 | p99.9 | x |\n|---|---|---|---|---|---|\n", strings.TrimSuffix(hostKernel(), "\n"), runtime.NumCPU(), runtime.Version())
	var spin time.Duration
	row := func(name string, got []string) {
		p99, err := time.ParseDuration(got[2])
		require.NoError(t, err)
		if spin == 0 && strings.Contains(name, "server's core") {
			spin = p99
		}
		times := ""
		if spin != 0 {
			times = fmt.Sprintf("%.2f", float64(p99)/float64(spin))
		}
		fmt.Printf("| %s | %s | %s | %s | %s | %s |\n", name, got[0], got[1], got[2], got[3], times)
	}
	row("nothing", beside("0", ""))
	row("a spinning process on the attacker's core", beside("0", "spin"))
	row("a spinning process on the server's core", beside("1", "spin"))
	for _, a := range attacks {
		row(a.name+": "+a.does, beside("0", a.name))
	}
}
