package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/handle"
	"vmfs/backends/hypervisor"
	"vmfs/backends/snapshot"
	"vmfs/backends/starter"
	"vmfs/guest/guesttest"
)

// patience bounds every step on a real QEMU.
const patience = 60 * time.Second

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func newTestStarter(t testing.TB) *Starter {
	t.Helper()
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		guesttest.Missing(t, "QEMU is missing: apt-get install qemu-system-x86")
	}
	return New(Config{Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
}

// shortDir is a directory with a path short enough for sockets.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "vmfs")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// A testVM is a QEMU that ends with the test.
type testVM struct {
	*VM
	t      testing.TB
	s      *Starter
	dir    string
	config hypervisor.VMConfig
	events *recorder
}

// recorder keeps a handle's events.
type recorder struct {
	mu     sync.Mutex // guards the fields below
	list   []hypervisor.Event
	closed bool
	grown  chan struct{}
}

func follow(ch <-chan hypervisor.Event) *recorder {
	r := &recorder{grown: make(chan struct{})}
	go func() { // ends with the handle
		for {
			e, ok := <-ch
			r.mu.Lock()
			if ok {
				r.list = append(r.list, e)
			} else {
				r.closed = true
			}
			close(r.grown)
			r.grown = make(chan struct{})
			r.mu.Unlock()
			if !ok {
				return
			}
		}
	}()
	return r
}

func (r *recorder) len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.list)
}

// await waits for an event from the mark on that ok takes.
func (r *recorder) await(t testing.TB, mark int, what string, ok func(hypervisor.Event) bool) hypervisor.Event {
	t.Helper()
	deadline := time.After(patience)
	for {
		r.mu.Lock()
		list, closed, grown := r.list[mark:], r.closed, r.grown
		r.mu.Unlock()
		for _, e := range list {
			if ok(e) {
				return e
			}
		}
		if closed {
			t.Fatalf("no %s; the events have ended with %+v", what, list)
		}
		select {
		case <-grown:
		case <-deadline:
			t.Fatalf("no %s; the events are %+v", what, list)
		}
	}
}

func kind(k hypervisor.EventKind) func(hypervisor.Event) bool {
	return func(e hypervisor.Event) bool { return e.Kind == k }
}

func (r *recorder) awaitClosed(t testing.TB) {
	t.Helper()
	deadline := time.After(patience)
	for {
		r.mu.Lock()
		closed, grown := r.closed, r.grown
		r.mu.Unlock()
		if closed {
			return
		}
		select {
		case <-grown:
		case <-deadline:
			t.Fatal("the events do not end")
		}
	}
}

// bare is the configuration of a VM without a guest: its firmware finds nothing
// to boot.
func bare(dir string) hypervisor.VMConfig {
	return hypervisor.VMConfig{
		Name: filepath.Base(dir), UUID: "5a0e6d3c-1111-4222-8333-444455556666",
		MemoryBytes: 64 * mib, SerialLogPath: filepath.Join(dir, "serial.log"), LogPath: filepath.Join(dir, "vmm.log"),
	}
}

// startTest starts a VM with the configuration.
func startTest(t testing.TB, s *Starter, dir string, config hypervisor.VMConfig) *testVM {
	t.Helper()
	_, hv, err := s.StartVM(testContext(t), nil, "", filepath.Join(dir, SocketName), config)
	require.NoError(t, err)
	return ended(t, s, dir, config, hv.(*VM))
}

// ended ends the VM with the test.
func ended(t testing.TB, s *Starter, dir string, config hypervisor.VMConfig, vm *VM) *testVM {
	v := &testVM{VM: vm, t: t, s: s, dir: dir, config: config, events: follow(vm.Events())}
	t.Cleanup(func() {
		if t.Failed() {
			for _, path := range []string{config.LogPath, config.SerialLogPath} {
				b, _ := os.ReadFile(path)
				t.Logf("%s:\n%s", filepath.Base(path), b[max(0, len(b)-1500):])
			}
		}
		v.end()
	})
	return v
}

// end ends the VM at once.
func (v *testVM) end() {
	if v.Child != nil {
		assert.NoError(v.t, v.Child.Kill())
	} else if pid, err := v.pid(); err == nil {
		_ = syscall.Kill(pid, syscall.SIGKILL) // may have ended
	}
	assert.NoError(v.t, v.Close())
}

func (v *testVM) info() hypervisor.VMInfo {
	v.t.Helper()
	info, err := v.GetVMInfo(testContext(v.t))
	require.NoError(v.t, err)
	return *info
}

// reopen closes the handle and makes another.
func (v *testVM) reopen() *testVM {
	v.t.Helper()
	require.NoError(v.t, v.Close())
	vm, err := v.s.Open(filepath.Join(v.dir, SocketName))
	require.NoError(v.t, err)
	return ended(v.t, v.s, v.dir, v.config, vm)
}

// expectNothing checks that a failed start has left nothing of QEMU.
func expectNothing(t testing.TB, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	require.NoError(t, err)
	for _, e := range entries {
		switch name := e.Name(); {
		case e.Type()&fs.ModeSocket != 0, name == "qemu.pid", name == "qemu.json":
			t.Errorf("%s was left", name)
		}
	}
	expectNoProcess(t, dir)
}

// qemusOf returns the command lines of the QEMUs of a directory.
func qemusOf(t testing.TB, dir string) (found []string) {
	t.Helper()
	cmdlines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, path := range cmdlines {
		b, _ := os.ReadFile(path) // it may have ended
		if bytes.Contains(b, []byte(dir+"/qemu.pid")) {
			found = append(found, string(bytes.ReplaceAll(b, []byte{0}, []byte{' '})))
		}
	}
	return found
}

func TestFailingStarts(t *testing.T) {
	s := newTestStarter(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	port := strconv.Itoa(taken.Addr().(*net.TCPAddr).Port)

	locked := filepath.Join(t.TempDir(), "disk.raw")
	require.NoError(t, os.WriteFile(locked, make([]byte, mib), 0o600))
	dir := shortDir(t)
	config := bare(dir)
	config.Disks = []hypervisor.DiskConfig{{Path: locked}}
	other := startTest(t, s, dir, config)

	notQCOW := filepath.Join(t.TempDir(), "no.qcow2")
	require.NoError(t, os.WriteFile(notQCOW, make([]byte, mib), 0o600))
	deaf := filepath.Join(t.TempDir(), "qemu-system-x86_64")
	require.NoError(t, os.WriteFile(deaf, []byte("#!/bin/sh\ncase $* in *-version*) echo QEMU emulator version 7.2.22;; *) echo gone wrong: 'all of it' >&2; exit 3;; esac\n"), 0o700))

	for name, c := range map[string]struct {
		config func(c *hypervisor.VMConfig, dir string)
		says   []string
		is     error
	}{
		"kernel": {
			config: func(c *hypervisor.VMConfig, _ string) { c.KernelPath = "/no/such, kernel" },
			says:   []string{"could not open kernel file", "/no/such, kernel", "exit status 1"},
		},
		"initrd": {
			config: func(c *hypervisor.VMConfig, _ string) { c.KernelPath, c.InitrdPath = "/proc/self/exe", "/no/initrd" },
			says:   []string{"QEMU ended"},
		},
		"no QEMU": {
			config: func(c *hypervisor.VMConfig, _ string) {
				c.Extras = map[string]string{"qemu.binary": "/no/qemu-system-x86_64"}
			},
			says: []string{"/no/qemu-system-x86_64"}, is: fs.ErrNotExist,
		},
		"no QEMU in PATH": {
			config: func(c *hypervisor.VMConfig, _ string) {
				c.Extras = map[string]string{"qemu.binary": "qemu-system-vmfs"}
			},
			says: []string{"qemu-system-vmfs"}, is: exec.ErrNotFound,
		},
		"another program": {
			config: func(c *hypervisor.VMConfig, _ string) { c.Extras = map[string]string{"qemu.binary": "/bin/echo"} },
			says:   []string{"/bin/echo is not QEMU"},
		},
		"a QEMU that fails": {
			config: func(c *hypervisor.VMConfig, _ string) { c.Extras = map[string]string{"qemu.binary": deaf} },
			says:   []string{"exit status 3", "gone wrong: all of it"},
		},
		"machine": {
			config: func(c *hypervisor.VMConfig, _ string) { c.Extras = map[string]string{"qemu.machine": "toaster"} },
			says:   []string{"unsupported machine type"},
		},
		"cpu": {
			config: func(c *hypervisor.VMConfig, _ string) { c.Extras = map[string]string{"qemu.cpu": "abacus"} },
			says:   []string{"abacus"},
		},
		"unknown setting": {
			config: func(c *hypervisor.VMConfig, _ string) { c.Extras = map[string]string{"qemu.frob": "1"} },
			says:   []string{"qemu.frob"}, is: hypervisor.ErrInvalid,
		},
		"port taken": {
			config: func(c *hypervisor.VMConfig, _ string) {
				c.Networks = []hypervisor.NetworkConfig{{User: true, Forwards: []string{"tcp:127.0.0.1:" + port + ":22"}}}
			},
			says: []string{"Could not set up host forwarding rule", port},
		},
		"tap": {
			config: func(c *hypervisor.VMConfig, _ string) {
				c.Networks = []hypervisor.NetworkConfig{{TAPDevice: "vmfs-no-tap"}}
			},
			says: []string{"vmfs-no-tap"}, is: fs.ErrNotExist,
		},
		"not a tap": {
			config: func(c *hypervisor.VMConfig, _ string) { c.Networks = []hypervisor.NetworkConfig{{TAPDevice: "lo"}} },
			says:   []string{"lo", "not a tap"}, is: hypervisor.ErrInvalid,
		},
		"locked disk": {
			config: func(c *hypervisor.VMConfig, _ string) { c.Disks = []hypervisor.DiskConfig{{Path: locked}} },
			says:   []string{"lock", locked},
		},
		"disk of another format": {
			config: func(c *hypervisor.VMConfig, _ string) {
				c.Disks = []hypervisor.DiskConfig{{Path: notQCOW, Format: hypervisor.DiskQCOW2}}
			},
			says: []string{"no.qcow2", "no qcow2 image"}, is: hypervisor.ErrInvalid,
		},
		"log": {
			config: func(c *hypervisor.VMConfig, dir string) { c.LogPath = filepath.Join(dir, "no", "log") },
			says:   []string{"no/log"}, is: fs.ErrNotExist,
		},
		"serial log": {
			config: func(c *hypervisor.VMConfig, dir string) { c.SerialLogPath = filepath.Join(dir, "no", "log") },
			says:   []string{"no/log"},
		},
		"vsock socket": {
			config: func(c *hypervisor.VMConfig, dir string) { c.VsockCID, c.VsockSocket = 5, filepath.Join(dir, "no", "v") },
			says:   []string{"vsock device", "ended before it had connected", "no/v"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := shortDir(t)
			config := bare(dir)
			c.config(&config, dir)
			pid, hv, err := s.StartVM(testContext(t), nil, "", filepath.Join(dir, SocketName), config)
			if err == nil {
				ended(t, s, dir, config, hv.(*VM))
				t.Fatal("it started")
			}
			assert.Zero(t, pid)
			assert.True(t, hv == nil)
			assert.True(t, strings.HasPrefix(err.Error(), "qemu: start "+config.Name+": "), "%v", err)
			for _, says := range c.says {
				assert.ErrorContains(t, err, says)
			}
			if c.is != nil {
				assert.ErrorIs(t, err, c.is)
			}
			expectNothing(t, dir)
		})
	}

	t.Run("version", func(t *testing.T) {
		dir := shortDir(t)
		_, _, err := s.StartVM(testContext(t), nil, "1.2", filepath.Join(dir, SocketName), bare(dir))
		require.ErrorIs(t, err, hypervisor.ErrInvalid)
		_, err = s.GetBinaryPath(nil, "1.2")
		require.ErrorIs(t, err, hypervisor.ErrInvalid)
	})
	t.Run("socket path", func(t *testing.T) {
		dir := filepath.Join(shortDir(t), strings.Repeat("x", 90))
		_, _, err := s.StartVM(testContext(t), nil, "", filepath.Join(dir, SocketName), bare(dir))
		require.ErrorIs(t, err, hypervisor.ErrInvalid)
		assert.ErrorContains(t, err, "too many")
	})
	t.Run("somebody is there", func(t *testing.T) {
		_, _, err := s.StartVM(testContext(t), nil, "", filepath.Join(other.dir, SocketName), bare(other.dir))
		require.ErrorIs(t, err, hypervisor.ErrBusy)
		assert.Equal(t, hypervisor.StateRunning, other.info().State, "the one that was there still is")
	})
}

// TestOddNames starts a VM with all that may be odd in a path or a name.
func TestOddNames(t *testing.T) {
	s := newTestStarter(t)
	dir := filepath.Join(shortDir(t), `a, b="c" %d`)
	require.NoError(t, os.Mkdir(dir, 0o700))
	config := bare(dir)
	config.Name = `we,b "x" 'y' ü`
	disk := filepath.Join(dir, `d,"isk`)
	require.NoError(t, os.WriteFile(disk, make([]byte, mib), 0o600))
	config.Disks = []hypervisor.DiskConfig{{Path: disk}}
	config.HotplugBytes = 64 * mib
	v := startTest(t, s, dir, config)
	id, err := v.Identify(testContext(t))
	require.NoError(t, err)
	assert.Equal(t, hypervisor.Identity{Name: config.Name, UUID: config.UUID, PID: v.Child.PID}, id)
	again := v.reopen()
	id, err = again.Identify(testContext(t))
	require.NoError(t, err)
	assert.Equal(t, hypervisor.Identity{Name: config.Name, UUID: config.UUID, PID: v.Child.PID}, id, "of a handle that did not start it")

	for _, name := range []string{SocketName, "monitor.sock", "console.sock"} {
		fi, err := os.Stat(filepath.Join(dir, name))
		require.NoError(t, err)
		assert.Equal(t, fs.FileMode(0o600), fi.Mode().Perm(), name)
	}
	require.NoError(t, again.Shutdown(testContext(t)))
	again.events.awaitClosed(t)
	require.NoError(t, v.Child.Await(testContext(t), patience))
	// QEMU takes its sockets along; the rest goes at the next start.
	assert.NoFileExists(t, filepath.Join(dir, SocketName))
	said, err := os.ReadFile(config.LogPath)
	require.NoError(t, err)
	assert.NotContains(t, string(said), "deprecated", "it was started with what this QEMU likes")
}

// TestDescriptors checks that QEMU inherits what it should and nothing else.
func TestDescriptors(t *testing.T) {
	s := newTestStarter(t)
	secret, err := os.Open("/etc/passwd")
	require.NoError(t, err)
	defer secret.Close()
	v := startTest(t, s, shortDir(t), bare(shortDir(t)))
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", v.Child.PID))
	require.NoError(t, err)
	for _, fd := range fds {
		to, _ := os.Readlink(fd)
		assert.NotEqual(t, "/etc/passwd", to)
	}
	in, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/0", v.Child.PID))
	require.NoError(t, err)
	assert.Equal(t, "/dev/null", in)
	sid, _, errno := syscall.Syscall(syscall.SYS_GETSID, uintptr(v.Child.PID), 0, 0)
	require.Zero(t, errno)
	assert.EqualValues(t, v.Child.PID, sid, "a session of its own")
}

// TestEndWithoutAWord is a QEMU that is killed: the handle that started it knows
// how it ended, another one that it did.
func TestEndWithoutAWord(t *testing.T) {
	s := newTestStarter(t)
	for _, own := range []bool{true, false} {
		dir := shortDir(t)
		v := startTest(t, s, dir, bare(dir))
		pid := v.Child.PID
		if !own {
			v = v.reopen()
		}
		require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		e := v.events.await(t, 0, "end", kind(hypervisor.EventShutdown))
		assert.Equal(t, hypervisor.StateShutdown, e.State)
		assert.Equal(t, hypervisor.ReasonVMMDied, e.Reason)
		if own {
			assert.Equal(t, []hypervisor.Detail{{Key: "exit", Value: "signal: killed"}}, e.Detail)
		}
		v.events.awaitClosed(t)
		err := v.Pause(testContext(t))
		require.ErrorIs(t, err, hypervisor.ErrHypervisorNotRunning)
		if own {
			assert.ErrorContains(t, err, "signal: killed")
		}
	}
}

// TestStatesWithoutAGuest goes through what QEMU's own states mean.
func TestStatesWithoutAGuest(t *testing.T) {
	s := newTestStarter(t)
	dir := shortDir(t)
	config := bare(dir)
	ctx := testContext(t)

	// A start that was interrupted before the guest was let run.
	pl, err := s.plan(ctx, starter.Request{SocketPath: filepath.Join(dir, SocketName)}, config)
	require.NoError(t, err)
	vm, err := s.launch(ctx, pl)
	require.NoError(t, err)
	v := ended(t, s, dir, config, vm).reopen()
	info := v.info()
	assert.Equal(t, hypervisor.StateCreated, info.State)
	assert.Equal(t, handle.ReasonPrelaunch, info.Reason)
	require.NoError(t, v.Reset(ctx))
	assert.Equal(t, hypervisor.StateCreated, v.info().State, "a reset does not start it")
	require.ErrorIs(t, v.Snapshot(ctx, t.TempDir()), hypervisor.ErrBusy)
	require.NoError(t, v.Resume(ctx))
	assert.Equal(t, hypervisor.VMInfo{State: hypervisor.StateRunning, MemoryActualSize: info.MemoryActualSize}, v.info())

	// QEMU calls a VM that was reset while it was paused as it calls a new one.
	require.NoError(t, v.Pause(ctx))
	mark := v.events.len()
	require.NoError(t, v.Reset(ctx))
	e := v.events.await(t, mark, "reset", kind(hypervisor.EventReset))
	assert.Equal(t, hypervisor.StatePaused, e.State)
	assert.Equal(t, []hypervisor.Detail{{Key: "by", Value: "host-qmp-system-reset"}, {Key: "guest", Value: "false"}}, e.Detail)
	status, err := v.status(ctx)
	require.NoError(t, err)
	require.Equal(t, "prelaunch", status)
	assert.Equal(t, hypervisor.StatePaused, v.info().State)
	v = v.reopen()
	assert.Equal(t, hypervisor.StatePaused, v.info().State, "for a new handle too")
	snap := filepath.Join(t.TempDir(), "new", "snap")
	require.NoError(t, v.Snapshot(ctx, snap), "and it can be saved")
	require.FileExists(t, filepath.Join(snap, manifestFile))

	// While a snapshot is written the rest has to wait.
	release, err := v.Gate.Hold(snapshot.Busy, false)
	require.NoError(t, err)
	for name, err := range map[string]error{
		"pause": v.Pause(ctx), "resume": v.Resume(ctx), "reset": v.Reset(ctx), "memory": v.ResizeMemory(ctx, config.MemoryBytes),
		"snapshot": v.Snapshot(ctx, t.TempDir()),
	} {
		assert.ErrorIs(t, err, hypervisor.ErrBusy, name)
	}
	release()
	require.NoError(t, v.Resume(ctx))

	// What takes but a moment is waited for.
	release, err = v.Gate.Hold(busyDevice, true)
	require.NoError(t, err)
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, v.Pause(short), context.DeadlineExceeded)
	paused := make(chan error, 1)
	go func() { paused <- v.Pause(ctx) }()
	release()
	require.NoError(t, <-paused)
	assert.Equal(t, hypervisor.StatePaused, v.info().State)
}

// TestUncooperativeGuest resizes the memory of a guest without a driver for it.
func TestUncooperativeGuest(t *testing.T) {
	s := newTestStarter(t)
	dir := shortDir(t)
	config := bare(dir)
	config.HotplugBytes = 64 * mib
	v := startTest(t, s, dir, config)
	err := v.ResizeMemoryAndWait(testContext(t), 96*mib+3000, 200*time.Millisecond)
	var resize *hypervisor.ResizeError
	require.ErrorAs(t, err, &resize)
	assert.Equal(t, hypervisor.ResizeError{Target: 96 * mib, Actual: 64 * mib}, *resize)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.ErrorContains(t, err, "qemu: memory "+config.Name)

	require.NoError(t, syscall.Kill(v.Child.PID, syscall.SIGSTOP))
	began := time.Now()
	err = v.ResizeMemoryAndWait(context.Background(), 80*mib, 200*time.Millisecond)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Less(t, time.Since(began), 5*time.Second)
	require.NoError(t, syscall.Kill(v.Child.PID, syscall.SIGCONT))
	require.NoError(t, v.ResizeMemoryAndWait(testContext(t), 64*mib, patience), "what it has already is reached at once")
}

// TestMonitorSocket talks to the second monitor while the first is in use.
func TestMonitorSocket(t *testing.T) {
	s := newTestStarter(t)
	dir := shortDir(t)
	v := startTest(t, s, dir, bare(dir))
	c, err := net.Dial("unix", filepath.Join(dir, "monitor.sock"))
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	_, err = io.WriteString(c, `{"execute": "qmp_capabilities"} {"execute": "stop"}`)
	require.NoError(t, err)
	e := v.events.await(t, 0, "pause", kind(hypervisor.EventPaused))
	assert.Equal(t, hypervisor.StatePaused, e.State, "what others do is told too")
	assert.Equal(t, hypervisor.StatePaused, v.info().State)
}

// TestRunStates checks that every run state of the QEMU that is installed has a
// meaning.
func TestRunStates(t *testing.T) {
	s := newTestStarter(t)
	dir := shortDir(t)
	v := startTest(t, s, dir, bare(dir))
	var raw []struct {
		Name    string `json:"name"`
		Meta    string `json:"meta-type"`
		Ret     string `json:"ret-type"`
		Members []struct {
			Name string `json:"name"`
			Type string `json:"type"`
		} `json:"members"`
		Values []string `json:"values"`
	}
	require.NoError(t, v.conn.Execute(testContext(t), "query-qmp-schema", nil, &raw))
	find := func(name, meta string) int {
		for i, x := range raw {
			if x.Name == name && (meta == "" || x.Meta == meta) {
				return i
			}
		}
		t.Fatalf("the schema has no %s", name)
		return 0
	}
	status := raw[find(raw[find("query-status", "command")].Ret, "")]
	var states []string
	for _, m := range status.Members {
		if m.Name == "status" {
			states = raw[find(m.Type, "enum")].Values
		}
	}
	require.NotEmpty(t, states)
	for _, state := range states {
		assert.Contains(t, runStates, state)
	}
	for event := range eventRules {
		find(event, "event")
	}
}

// TestTopology asks QEMU which CPUs it has made.
func TestTopology(t *testing.T) {
	s := newTestStarter(t)
	dir := shortDir(t)
	config := bare(dir)
	config.VCPUs = 8
	config.Topology = &hypervisor.CPUTopology{ThreadsPerCore: 2, DiesPerPackage: 2, Packages: 2}
	v := startTest(t, s, dir, config)
	var cpus []struct {
		Props struct {
			Socket int `json:"socket-id"`
			Die    int `json:"die-id"`
			Core   int `json:"core-id"`
			Thread int `json:"thread-id"`
		} `json:"props"`
	}
	require.NoError(t, v.conn.Execute(testContext(t), "query-cpus-fast", nil, &cpus))
	require.Len(t, cpus, 8)
	last := cpus[7].Props
	assert.Equal(t, []int{1, 1, 0, 1}, []int{last.Socket, last.Die, last.Core, last.Thread})
}

// TestBootFromDisk boots without a kernel: the firmware runs what is in the first
// sector of the first disk, which prints a line on the serial port.
func TestBootFromDisk(t *testing.T) {
	s := newTestStarter(t)
	dir := shortDir(t)
	sector := make([]byte, 512)
	copy(sector, []byte{
		0x31, 0xc0, 0x8e, 0xd8, 0xfc, // ds = 0, upwards
		0xba, 0xf8, 0x03, 0xbe, 0x16, 0x7c, // dx = the port, si = the text
		0xac, 0x84, 0xc0, 0x74, 0x03, 0xee, 0xeb, 0xf8, // send up to the NUL
		0xf4, 0xeb, 0xfd, // halt, for good
	})
	copy(sector[22:], "booted from the disk\n")
	sector[510], sector[511] = 0x55, 0xaa
	disk := filepath.Join(dir, "disk")
	require.NoError(t, os.WriteFile(disk, append(sector, make([]byte, mib)...), 0o600))
	config := bare(dir)
	config.Disks = []hypervisor.DiskConfig{{Path: disk}}
	startTest(t, s, dir, config)
	require.Eventually(t, func() bool {
		b, err := os.ReadFile(config.SerialLogPath)
		return err == nil && strings.Contains(string(b), "booted from the disk")
	}, patience, 20*time.Millisecond)
}
