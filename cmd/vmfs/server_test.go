package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/guest"
	"vmfs/guest/guesttest"
)

// A server is a `vmfs serve` of a test, as a process of its own, on a state
// directory that outlives it.
type server struct {
	t     *testing.T
	dir   string // of everything
	state string
	addr  string   // of its Unix socket
	tcp   string   // the address of its TCP listener, for root
	tcps  []string // those of all

	under []string // what runs it, with its arguments; nothing as a rule
	cmd   *exec.Cmd
	log   *logBuffer
}

// newServer makes the directory for a server. At the test's end whatever still
// runs on it is ended: the server, and then the VMMs, which are those processes
// whose command line names the directory.
func newServer(t *testing.T) *server {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "vmfs") // short: Unix socket paths are limited
	require.NoError(t, err)
	s := &server{t: t, dir: dir, state: filepath.Join(dir, "state"), addr: "unix!" + filepath.Join(dir, "s"), log: &logBuffer{}}
	t.Cleanup(func() {
		s.kill()
		for _, pid := range s.vmms() {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		if t.Failed() {
			t.Logf("the server's log:\n%s", s.log)
			s.logVMs()
		}
		os.RemoveAll(dir)
	})
	return s
}

// logVMs shows what the VMs left behind.
func (s *server) logVMs() {
	logs, _ := filepath.Glob(filepath.Join(s.state, "vms", "*", "*log"))
	for _, name := range logs {
		text, err := os.ReadFile(name)
		if err == nil && len(text) > 0 {
			s.t.Logf("%s:\n%s", name, text[max(0, len(text)-2000):])
		}
	}
}

// start starts the server and waits until it listens.
func (s *server) start(args ...string) {
	s.t.Helper()
	line := append(slices.Clone(s.under), "vmfs", "serve", "--state", s.state, "--listen", s.addr)
	s.cmd = exec.Command(line[0], append(line[1:], args...)...)
	s.cmd.Stderr = s.log
	out, err := s.cmd.StdoutPipe()
	require.NoError(s.t, err)
	require.NoError(s.t, s.cmd.Start())
	said, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		s.kill()
		s.t.Fatalf("the server did not start: %v\n%s", err, s.log)
	}
	s.tcps = nil
	for _, a := range strings.Fields(said) {
		if strings.HasPrefix(a, "tcp!") {
			s.tcp, s.tcps = a, append(s.tcps, a)
		}
	}
}

// kill ends the server as a crash does.
func (s *server) kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill() // an error is its end just now
	_ = s.cmd.Wait()
	s.cmd = nil
}

// vmfs runs a client command and returns what it printed and its exit status.
func (s *server) vmfs(stdin string, args ...string) (stdout, stderr string, status int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "vmfs", args...)
	cmd.Env = append(os.Environ(), "VMFS_ADDR="+s.addr)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	require.NoError(s.t, ctx.Err(), "vmfs %q hangs", args)
	if _, ok := err.(*exec.ExitError); !ok {
		require.NoError(s.t, err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// must runs a client command that has to succeed.
func (s *server) must(args ...string) string {
	s.t.Helper()
	out, errs, status := s.vmfs("", args...)
	require.Zero(s.t, status, "vmfs %q: %s", args, errs)
	return strings.TrimSuffix(out, "\n")
}

// refused runs a client command that has to fail and returns what it said.
func (s *server) refused(args ...string) string {
	s.t.Helper()
	_, errs, status := s.vmfs("", args...)
	require.Equal(s.t, exitFailure, status, "vmfs %q: %s", args, errs)
	return errs
}

// makeVM makes a VM with the given configuration.
func (s *server) makeVM(name, config string) {
	s.t.Helper()
	s.must("mkdir", name)
	_, errs, status := s.vmfs(config, "write", name+"/config")
	require.Zero(s.t, status, errs)
}

// guestConfig is the configuration of a VM with the tests' guest.
func guestConfig(t *testing.T) string {
	t.Helper()
	kernel, initrd := guesttest.Fast(t, guest.Options{})
	return fmt.Sprintf("memory=256M\nhotplug=256M\nkernel=%s\ninitrd=%s\nargs=console=ttyS0 quiet no_timer_check\n%s", kernel, initrd, hypervisorKey())
}

// storiesOn is the back end whose VMs the stories have.
func storiesOn() hypervisor.Type {
	return hypervisor.Type(cmp.Or(os.Getenv("VMFS_STORIES_ON"), string(hypervisor.TypeQEMU)))
}

// hypervisorKey is the one line of a story's configuration that differs between back ends.
// QEMU emulates, so that the stories run everywhere.
func hypervisorKey() string {
	if storiesOn() == hypervisor.TypeQEMU {
		return "qemu.accel=tcg\n"
	}
	return fmt.Sprintf("hypervisor=%s\n", storiesOn())
}

// programs is what the name of each back end's VMM has in it.
var programs = map[hypervisor.Type]string{hypervisor.TypeQEMU: "qemu-system", hypervisor.TypeCloudHypervisor: "cloud-hypervisor"}

// pid returns the process of a VM, 0 if it has none.
func (s *server) pid(name string) int {
	s.t.Helper()
	text := s.must("cat", name+"/pid")
	if text == "" {
		return 0
	}
	pid, err := strconv.Atoi(text)
	require.NoError(s.t, err)
	return pid
}

// vmms returns the processes that run VMs of the server's directory: it is in their arguments,
// or they have a file in it.
func (s *server) vmms() []int {
	var pids []int
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(d))
		line, err := os.ReadFile(filepath.Join(d, "cmdline"))
		if err != nil || pid == os.Getpid() || s.cmd != nil && pid == s.cmd.Process.Pid {
			continue
		}
		if argv0, _, _ := bytes.Cut(line, []byte{0}); !bytes.Contains(argv0, []byte(programs[storiesOn()])) {
			continue
		}
		files, _ := filepath.Glob(d + "/fd/*")
		if bytes.Contains(line, []byte(s.dir)) || slices.ContainsFunc(files, func(f string) bool {
			path, err := os.Readlink(f)
			return err == nil && strings.HasPrefix(path, s.dir+"/")
		}) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// follow runs `vmfs cat path` until the test's end or the server's.
func (s *server) follow(path string) *logBuffer {
	s.t.Helper()
	buf := &logBuffer{}
	cmd := exec.Command("vmfs", "cat", path)
	cmd.Env = append(os.Environ(), "VMFS_ADDR="+s.addr)
	cmd.Stdout, cmd.Stderr = buf, io.Discard
	require.NoError(s.t, cmd.Start())
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	s.t.Cleanup(func() { _ = cmd.Process.Kill(); <-done })
	return buf
}

// logBuffer is the output of a process that a test looks into while it runs.
type logBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// expect waits until the output contains the text.
func (b *logBuffer) expect(t *testing.T, text string) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Contains(b.String(), text) }, 2*patience, 20*time.Millisecond,
		"%q never came", text)
}
