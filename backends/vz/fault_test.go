package vz_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/backends/vz"
	"vmfs/backends/vz/fakeengine"
	"vmfs/backends/vz/shimapi"
	"vmfs/internal/unixsock"
)

// patience bounds what is to come.
const patience = time.Minute

// A rig is a VM whose shim is a process.
type rig struct {
	t       *testing.T
	starter *vz.Starter
	dir     string
	config  hypervisor.VMConfig
	pid     int
	hv      hypervisor.Hypervisor
}

// newRig makes what a VM needs, and starts none.
func newRig(t *testing.T) *rig {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "vmfs") // short enough for sockets
	require.NoError(t, err)
	r := &rig{t: t, starter: newStarter(t), dir: dir, config: hypervisor.VMConfig{
		Name: "web", UUID: "6ba7b810-9dad-11d1-80b4-00c04fd430c8", VsockCID: 3, MemoryBytes: 128 << 20, KernelPath: kernel(t),
		SerialLogPath: filepath.Join(dir, "console.log"), LogPath: filepath.Join(dir, "log"),
	}}
	t.Cleanup(func() {
		r.close()
		if r.pid != 0 {
			_ = syscall.Kill(r.pid, syscall.SIGKILL) // what it still has to say is of no use
			r.gone()
		}
		_ = os.RemoveAll(dir)
	})
	return r
}

func (r *rig) socket() string { return filepath.Join(r.dir, vz.SocketName) }

func (r *rig) ctx() context.Context {
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	r.t.Cleanup(cancel)
	return ctx
}

// start starts the VM, and waits for its guest.
func start(t *testing.T) *rig {
	r := newRig(t)
	r.start()
	return r
}

func (r *rig) start() {
	r.t.Helper()
	var err error
	r.pid, r.hv, err = r.starter.StartVM(r.ctx(), nil, "", r.socket(), r.config)
	require.NoError(r.t, err)
	require.Eventually(r.t, func() bool {
		b, _ := os.ReadFile(r.config.SerialLogPath)
		return strings.Contains(string(b), fakeengine.ReadyLine)
	}, patience, 5*time.Millisecond)
}

// close gives the handle up, as a server does that ends.
func (r *rig) close() {
	if r.hv != nil {
		_ = hypervisor.CloseHandle(r.hv) // never fails
		r.hv = nil
	}
}

// back is another server's handle.
func (r *rig) back() hypervisor.Hypervisor {
	r.t.Helper()
	r.close()
	hv, err := hypervisor.NewClient(hypervisor.TypeVZ, r.socket())
	require.NoError(r.t, err)
	r.hv = hv
	return hv
}

// gone waits for the shim's end.
func (r *rig) gone() {
	r.t.Helper()
	require.Eventually(r.t, func() bool {
		served, err := unixsock.Served(r.socket())
		return err == nil && !served
	}, patience, 5*time.Millisecond)
	r.pid = 0
}

// await takes the handle's events until one of a kind.
func (r *rig) await(hv hypervisor.Hypervisor, kind hypervisor.EventKind) (events []hypervisor.Event) {
	r.t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case e, ok := <-hv.(hypervisor.EventSource).Events():
			require.True(r.t, ok, "after %v", events)
			if events = append(events, e); e.Kind == kind {
				return events
			}
		case <-timeout:
			r.t.Fatalf("no %s, only %v", kind, events)
		}
	}
}

func (r *rig) fault(c fakeengine.Call, text string) {
	r.t.Helper()
	require.NoError(r.t, os.WriteFile(filepath.Join(r.dir, fakeengine.FaultFile(c)), []byte(text), 0o600))
}

func (r *rig) clear(c fakeengine.Call) {
	r.t.Helper()
	require.NoError(r.t, os.Remove(filepath.Join(r.dir, fakeengine.FaultFile(c))))
}

// TestShimKilled is a shim that dies without a word.
func TestShimKilled(t *testing.T) {
	r := start(t)
	require.NoError(t, syscall.Kill(r.pid, syscall.SIGKILL))
	events := r.await(r.hv, hypervisor.EventShutdown)
	last := events[len(events)-1]
	assert.Equal(t, hypervisor.ReasonVMMDied, last.Reason)
	assert.Equal(t, []hypervisor.Detail{{Key: "exit", Value: "signal: killed"}}, last.Detail)
	_, err := r.hv.GetVMInfo(r.ctx())
	require.ErrorIs(t, err, hypervisor.ErrHypervisorNotRunning)
	r.close()
	r.gone()
	r.start() // what it left is in nobody's way
}

// TestShimKilledInACall is one that dies while it is waited for.
func TestShimKilledInACall(t *testing.T) {
	r := start(t)
	r.fault(fakeengine.CallPause, "")
	failed := make(chan error, 1)
	go func() { failed <- r.hv.Pause(r.ctx()) }()
	require.Eventually(t, func() bool {
		c, err := shimapi.Dial(r.ctx(), r.socket())
		if err != nil {
			return false
		}
		defer c.Close()
		var i shimapi.Info
		return c.Call(r.ctx(), shimapi.MethodInfo, nil, &i) == nil && i.Doing == "pause"
	}, patience, 5*time.Millisecond)
	require.NoError(t, syscall.Kill(r.pid, syscall.SIGKILL))
	require.ErrorIs(t, <-failed, hypervisor.ErrHypervisorNotRunning)
}

// TestShimStopped is one that is stopped and goes on: the server takes it up again.
func TestShimStopped(t *testing.T) {
	r := start(t)
	require.NoError(t, syscall.Kill(r.pid, syscall.SIGSTOP))
	require.Eventually(t, func() bool { // its threads run on until one of them has taken the signal
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		_, err := r.hv.GetVMInfo(ctx)
		return errors.Is(err, context.DeadlineExceeded)
	}, patience, time.Millisecond)
	hv := r.back() // does not wait for it
	require.NoError(t, syscall.Kill(r.pid, syscall.SIGCONT))
	info, err := hv.GetVMInfo(r.ctx())
	require.NoError(t, err)
	assert.Equal(t, hypervisor.StateRunning, info.State)
}

// TestServerComesBack has the guest do everything while there is no server, up to its end.
func TestServerComesBack(t *testing.T) {
	r := start(t)
	r.await(r.hv, hypervisor.EventRunning)
	machine, err := os.ReadFile(filepath.Join(r.dir, "vz.machine"))
	require.NoError(t, err)
	assert.NotEmpty(t, machine)
	r.close()

	other, err := shimapi.Dial(r.ctx(), r.socket()) // who is no server
	require.NoError(t, err)
	defer other.Close()
	for _, m := range []shimapi.Method{shimapi.MethodPause, shimapi.MethodResume, shimapi.MethodPowerOff} {
		require.NoError(t, other.Call(r.ctx(), m, nil, nil))
	}
	hv := r.back()
	var kinds []hypervisor.EventKind
	var last hypervisor.Event
	for _, last = range r.await(hv, hypervisor.EventShutdown) {
		kinds = append(kinds, last.Kind)
	}
	assert.Equal(t, []hypervisor.EventKind{
		hypervisor.EventPaused, hypervisor.EventRunning, hypervisor.EventPowerdown, hypervisor.EventShutdown,
	}, kinds)
	assert.Equal(t, "guest-shutdown", last.Reason)
	r.gone() // sent away by who has learned of it
	r.close()

	r.start()
	again, err := os.ReadFile(filepath.Join(r.dir, "vz.machine"))
	require.NoError(t, err)
	assert.Equal(t, machine, again, "it is the same machine")
}

// TestServerDiesInAStart is a start that hangs in the framework: a server that comes finds a VM
// that was not started. When the start is given up nothing is left.
func TestServerDiesInAStart(t *testing.T) {
	r := newRig(t)
	r.fault(fakeengine.CallStart, "")
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, _, err := r.starter.StartVM(ctx, nil, "", r.socket(), r.config)
		failed <- err
	}()
	hv := hypervisor.Hypervisor(nil)
	require.Eventually(t, func() bool {
		var err error
		hv, err = hypervisor.NewClient(hypervisor.TypeVZ, r.socket())
		return err == nil
	}, patience, time.Millisecond)
	defer func() { _ = hypervisor.CloseHandle(hv) }()
	info, err := hv.GetVMInfo(r.ctx())
	require.NoError(t, err)
	assert.Equal(t, hypervisor.StateCreated, info.State)
	cancel()
	require.ErrorIs(t, <-failed, context.Canceled)
	r.gone()
	assert.NoFileExists(t, r.socket())
}

// TestResumeStarts is a server that was killed after it had started the shim and before it had
// told it to start the VM: the next one finds that, and Resume does it.
func TestResumeStarts(t *testing.T) {
	r := newRig(t)
	r.fault(fakeengine.CallNew, "") // so that it waits for the VM to be made
	killed := exec.Command(os.Args[0])
	killed.Env = append(os.Environ(), dyingServer+"="+r.dir, dyingKernel+"="+r.config.KernelPath)
	killed.Stderr = t.Output()
	require.Error(t, killed.Run(), "it was to be killed")
	hv := r.back()
	id, err := hv.(hypervisor.Identifier).Identify(r.ctx())
	require.NoError(t, err)
	r.pid = id.PID
	assert.Equal(t, "web", id.Name)
	info, err := hv.GetVMInfo(r.ctx())
	require.NoError(t, err)
	assert.Equal(t, hypervisor.StateCreated, info.State)
	r.clear(fakeengine.CallNew)
	require.NoError(t, hv.Resume(r.ctx()))
	info, err = hv.GetVMInfo(r.ctx())
	require.NoError(t, err)
	assert.Equal(t, hypervisor.StateRunning, info.State)
	require.Eventually(t, func() bool { return hv.Capabilities().SupportsSnapshot }, patience, 5*time.Millisecond, "it has learned what the VM can do")
}

// TestSnapshotInterrupted is a server that dies while it has the VM stand still: the next
// lets it go on.
func TestSnapshotInterrupted(t *testing.T) {
	r := start(t)
	r.fault(fakeengine.CallSave, "")
	failed := make(chan error, 1)
	go func() { failed <- r.hv.Snapshot(r.ctx(), filepath.Join(r.dir, "snap")) }()
	require.Eventually(t, func() bool {
		info, err := r.hv.GetVMInfo(r.ctx())
		return err == nil && info.State == hypervisor.StatePaused && info.Reason == "snapshot"
	}, patience, 5*time.Millisecond)
	require.ErrorIs(t, r.hv.Pause(r.ctx()), hypervisor.ErrBusy, "it is kept from other commands")
	r.close()
	require.Error(t, <-failed)
	r.clear(fakeengine.CallSave)
	hv := r.back()
	require.Eventually(t, func() bool {
		info, err := hv.GetVMInfo(r.ctx())
		return err == nil && info.State == hypervisor.StateRunning
	}, patience, 5*time.Millisecond)
	require.Eventually(t, func() bool { // what lets it go on keeps others out for a moment
		err := hv.Snapshot(r.ctx(), filepath.Join(r.dir, "snap2"))
		require.True(t, err == nil || errors.Is(err, hypervisor.ErrBusy), "%v", err)
		return err == nil
	}, patience, 5*time.Millisecond)
}

// TestSnapshotFails is a framework that does not save: the VM goes on, and nothing is left.
func TestSnapshotFails(t *testing.T) {
	r := start(t)
	r.fault(fakeengine.CallSave, "The virtual machine failed to save.")
	snap := filepath.Join(r.dir, "snap")
	require.ErrorContains(t, r.hv.Snapshot(r.ctx(), snap), "failed to save")
	entries, err := os.ReadDir(snap)
	require.NoError(t, err)
	assert.Empty(t, entries)
	info, err := r.hv.GetVMInfo(r.ctx())
	require.NoError(t, err)
	assert.Equal(t, hypervisor.StateRunning, info.State)
}

// TestRestoresTheSameMachine is what "Linux cannot be restored" was: the identifier and the
// addresses are given back, whatever the configuration says now.
func TestRestoresTheSameMachine(t *testing.T) {
	r := newRig(t)
	r.config.Networks = []hypervisor.NetworkConfig{{User: true}}
	r.start()
	snap := filepath.Join(r.dir, "snap")
	require.NoError(t, r.hv.Snapshot(r.ctx(), snap))
	require.NoError(t, r.hv.Shutdown(r.ctx()))
	r.gone()
	r.close()
	require.NoError(t, os.WriteFile(filepath.Join(r.dir, "vz.machine"), []byte("another"), 0o600))
	other := r.config
	other.UUID, other.Name = "0e37f9a3-26c6-4d46-9b7e-9d4c4a1f0f55", "other"
	other.Networks = []hypervisor.NetworkConfig{{User: true, MAC: "52:54:00:00:00:99"}}
	var err error
	r.pid, r.hv, err = r.starter.RestoreVMWith(r.ctx(), nil, "", r.socket(), snap, other)
	require.NoError(t, err)
	id, err := r.hv.(hypervisor.Identifier).Identify(r.ctx())
	require.NoError(t, err)
	assert.Equal(t, hypervisor.Identity{Name: other.Name, UUID: other.UUID, PID: r.pid}, id)
	require.NoError(t, r.hv.Resume(r.ctx()))
}

// TestNoAgent is a guest whose memory nobody knows: a resize waits to its end, and says so.
func TestNoAgent(t *testing.T) {
	r := newRig(t)
	r.config.KernelArgs = fakeengine.NoAgent
	r.start()
	info, err := r.hv.GetVMInfo(r.ctx())
	require.NoError(t, err)
	assert.Nil(t, info.MemoryActualSize)
	require.NoError(t, r.hv.ResizeMemory(r.ctx(), 64<<20))
	err = r.hv.ResizeMemoryAndWait(r.ctx(), 96<<20, 300*time.Millisecond)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "the size of the guest's memory is not known")
	// It is the target that was set: the balloon knows no more.
	c, err := shimapi.Dial(r.ctx(), r.socket())
	require.NoError(t, err)
	defer c.Close()
	var i shimapi.Info
	require.NoError(t, c.Call(r.ctx(), shimapi.MethodInfo, nil, &i))
	assert.EqualValues(t, 96<<20, i.Target)
}

// TestListen is the guest's way to the host by the back end's own dialer, which a guest
// finds as soon as ListenVsock has returned.
func TestListen(t *testing.T) {
	r := start(t)
	d, err := r.hv.(hypervisor.VsockSource).VsockDialer()
	require.NoError(t, err)
	for _, port := range []int{2000, 4294967294} {
		l, err := d.(hypervisor.VsockListener).ListenVsock(r.ctx(), port)
		require.NoError(t, err)
		console, err := r.hv.(hypervisor.Console).OpenConsole(r.ctx())
		require.NoError(t, err)
		_, err = io.WriteString(console, "dial "+strconv.Itoa(port)+" hello\r")
		require.NoError(t, err)
		c, err := l.Accept()
		require.NoError(t, err)
		require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
		b := make([]byte, len("hello\n"))
		_, err = io.ReadFull(c, b)
		require.NoError(t, err)
		assert.Equal(t, "hello\n", string(b))
		require.NoError(t, c.Close())
		require.NoError(t, console.Close())
		require.NoError(t, l.Close())
	}
}

// TestAnotherShim is a shim of another release, which says what versions it speaks; and one
// that does not speak the protocol at all.
func TestAnotherShim(t *testing.T) {
	for name, c := range map[string]struct{ says, want string }{
		"another version": {`{"error":{"code":"version","text":"this vz-shim speaks the versions 7 to 9, and the server 1 to 1"}}` + "\n", "speaks the versions 7 to 9"},
		"no shim":         {"220 mail ready\r\n", "not of the vz-shim protocol"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			l, err := net.Listen("unix", r.socket())
			require.NoError(t, err)
			done := make(chan struct{})
			go func() {
				defer close(done)
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					_, _ = io.WriteString(conn, c.says)
					_, _ = conn.Read(make([]byte, 1024))
					_ = conn.Close()
				}
			}()
			defer func() { _ = l.Close(); <-done }()
			hv, err := hypervisor.NewClient(hypervisor.TypeVZ, r.socket())
			require.NoError(t, err)
			defer func() { _ = hypervisor.CloseHandle(hv) }()
			_, err = hv.GetVMInfo(r.ctx())
			require.ErrorContains(t, err, c.want)
			assert.NotErrorIs(t, err, hypervisor.ErrHypervisorNotRunning)
		})
	}
}

// TestOlderProgram is a vz.binary that is no vmfs with a vz-shim.
func TestOlderProgram(t *testing.T) {
	r := newRig(t)
	program := filepath.Join(r.dir, "vmfs")
	require.NoError(t, os.WriteFile(program, []byte("#!/bin/sh\necho 'unknown command \"vz-shim\"' >&2\nexit 2\n"), 0o700))
	r.config.Extras = map[string]string{"vz.binary": program}
	_, _, err := r.starter.StartVM(r.ctx(), nil, "", r.socket(), r.config)
	require.ErrorContains(t, err, "unknown command")
	assert.NoFileExists(t, r.socket())
}

// TestNothingInArguments is that a configuration is seen by nobody who looks at processes.
func TestNothingInArguments(t *testing.T) {
	r := newRig(t)
	r.config.KernelArgs = "password=secret"
	r.start()
	for _, file := range []string{"cmdline", "environ"} {
		b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(r.pid), file))
		if err != nil {
			t.Skip("this system does not tell")
		}
		assert.NotContains(t, string(b), "secret")
	}
	assert.NoFileExists(t, filepath.Join(r.dir, "vz.config"))
}

// The environment of a process that is a server which is killed in a start: the VM's
// directory, and its kernel.
const dyingServer, dyingKernel = "VZ_TEST_DYING_SERVER", "VZ_TEST_DYING_KERNEL"

// dieInAStart is that process. It returns if it was not killed.
func dieInAStart(dir string) {
	socket := filepath.Join(dir, vz.SocketName)
	ctx := context.Background()
	go func() {
		for {
			c, err := shimapi.Dial(ctx, socket)
			if err == nil {
				var i shimapi.Info
				if c.Call(ctx, shimapi.MethodInfo, nil, &i) == nil {
					_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				}
			}
			time.Sleep(time.Millisecond)
		}
	}()
	_, _, err := vz.New(vz.Config{}).StartVM(ctx, nil, "", socket, hypervisor.VMConfig{
		Name: "web", UUID: "6ba7b810-9dad-11d1-80b4-00c04fd430c8", VsockCID: 3, MemoryBytes: 128 << 20,
		KernelPath: os.Getenv(dyingKernel), SerialLogPath: filepath.Join(dir, "console.log"), LogPath: filepath.Join(dir, "log"),
	})
	_, _ = io.WriteString(os.Stderr, "the server was not killed: "+err.Error())
}
