package hypervisortest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
)

// A VM is one that the suite has started.
type VM struct {
	Config     hypervisor.VMConfig
	SocketPath string
	PID        int // 0 where the VMM is not a process
	Handle     hypervisor.Hypervisor

	suite  *suite
	events *eventLog // nil if Handle is no EventSource
	booted int64     // where the output of the last boot begins in the serial log
}

// suite is one run. Its subtests run one after the other.
type suite struct {
	b      Backend
	vms    []*VM    // that were started
	dirs   []string // of VMs
	shared *VM      // that most subtests use
	snaps  []snapshot
}

// cleanup ends what is left.
func (s *suite) cleanup(t *testing.T) {
	for _, vm := range s.vms {
		vm.discard(t)
	}
	for _, dir := range s.dirs {
		assert.NoError(t, os.RemoveAll(dir))
	}
}

// ctx is a context for a step that should succeed.
func (s *suite) ctx(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), s.b.Timeout)
	t.Cleanup(cancel)
	return ctx
}

// dir makes a run-time directory, with a path short enough for sockets.
func (s *suite) dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "vmfs")
	require.NoError(t, err)
	s.dirs = append(s.dirs, dir)
	return dir
}

func (s *suite) socket(dir string) string { return filepath.Join(dir, s.b.Starter.SocketName()) }

// config makes the configuration of one more VM in dir.
func (s *suite) config(t testing.TB, dir string) hypervisor.VMConfig {
	t.Helper()
	c := s.b.Config(t, dir)
	setDefault(&c.Name, filepath.Base(dir))
	setDefault(&c.UUID, newUUID())
	setDefault(&c.SerialLogPath, filepath.Join(dir, "serial.log"))
	setDefault(&c.LogPath, filepath.Join(dir, "vmm.log"))
	return c
}

func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// launch starts a VM and does not wait for its guest.
func (s *suite) launch(t testing.TB) *VM {
	t.Helper()
	dir := s.dir(t)
	config := s.config(t, dir)
	pid, hv, err := s.b.Starter.StartVM(s.ctx(t), s.b.Paths, "", s.socket(dir), config)
	require.NoError(t, err, "StartVM")
	return s.adopt(t, pid, hv, s.socket(dir), config)
}

// boot starts a VM and waits for its guest.
func (s *suite) boot(t testing.TB) *VM {
	t.Helper()
	vm := s.launch(t)
	vm.ready(t)
	return vm
}

func (s *suite) adopt(t testing.TB, pid int, hv hypervisor.Hypervisor, socket string, config hypervisor.VMConfig) *VM {
	t.Helper()
	require.NotNil(t, hv, "the start succeeded without a handle")
	vm := &VM{Config: config, SocketPath: socket, PID: pid, suite: s}
	vm.use(hv)
	s.vms = append(s.vms, vm)
	if _, killer := hv.(hypervisor.Killer); pid == 0 && !killer {
		t.Fatalf("the VMM has no process, and its handle %T is no hypervisor.Killer: nothing can end it by force", hv)
	}
	if pid != 0 {
		require.True(t, alive(pid), "the start succeeded, but its process %d does not run", pid)
	}
	return vm
}

// use makes hv the handle of the VM.
func (vm *VM) use(hv hypervisor.Hypervisor) {
	vm.Handle, vm.events = hv, nil
	if src, ok := hv.(hypervisor.EventSource); ok {
		vm.events = follow(src.Events())
	}
}

// vm is the shared VM, running and with its guest up.
func (s *suite) vm(t *testing.T) *VM {
	t.Helper()
	if s.shared != nil {
		info, err := s.shared.Handle.GetVMInfo(s.ctx(t))
		if err == nil && info.State == hypervisor.StatePaused {
			if err = s.shared.Handle.Resume(s.ctx(t)); err == nil {
				info, err = s.shared.Handle.GetVMInfo(s.ctx(t))
			}
		}
		if err != nil || info.State != hypervisor.StateRunning {
			t.Logf("the shared VM is unusable after an earlier subtest (%+v, %v): starting another", info, err)
			s.shared.discard(t)
			s.shared = nil
		}
	}
	if s.shared == nil {
		s.shared = s.boot(t)
	}
	vm := s.shared
	t.Cleanup(func() {
		if t.Failed() {
			vm.explain(t)
		}
	})
	return vm
}

// ready waits for the guest of the last boot.
func (vm *VM) ready(t testing.TB) {
	t.Helper()
	if err := vm.suite.b.Ready(vm.suite.ctx(t), vm.Handle, vm.Config, vm.booted); err != nil {
		vm.explain(t)
		t.Fatalf("the guest does not get ready: %v", err)
	}
}

// serialSize is how much the guest has printed.
func (vm *VM) serialSize() int64 {
	fi, err := os.Stat(vm.Config.SerialLogPath)
	if err != nil {
		return 0
	}
	return fi.Size()
}

// explain logs what the VMM and the guest said last.
func (vm *VM) explain(t testing.TB) {
	for _, path := range []string{vm.Config.LogPath, vm.Config.SerialLogPath} {
		b, err := os.ReadFile(path)
		if err == nil {
			t.Logf("%s of %s:\n%s", filepath.Base(path), vm.Config.Name, b[max(0, len(b)-2000):])
		}
	}
	if vm.events != nil {
		t.Logf("events: %+v", vm.events.all())
	}
}

// kill ends the VMM by force.
func (vm *VM) kill(ctx context.Context) error {
	if vm.PID != 0 {
		if err := syscall.Kill(vm.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("kill %d: %w", vm.PID, err)
		}
		return nil
	}
	err := vm.Handle.(hypervisor.Killer).Kill(ctx)
	if errors.Is(err, hypervisor.ErrHypervisorNotRunning) {
		return nil
	}
	return err
}

// discard ends the VM in whatever state it is, and all that the suite has of it.
func (vm *VM) discard(t testing.TB) {
	t.Helper()
	if vm.Handle == nil {
		return
	}
	if vm.PID == 0 || alive(vm.PID) {
		ctx, cancel := context.WithTimeout(context.Background(), vm.suite.b.Timeout)
		defer cancel()
		if err := vm.kill(ctx); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Logf("end VM %s: %v", vm.Config.Name, err)
		}
	}
	if vm.PID != 0 {
		assert.Eventually(t, func() bool { return !alive(vm.PID) }, vm.suite.b.Timeout, 5*time.Millisecond,
			"process %d still runs after SIGKILL", vm.PID)
	}
	_ = hypervisor.CloseHandle(vm.Handle) // may be closed already
	if vm.events != nil {
		vm.events.abandon(vm.suite.b.Prompt)
	}
	vm.Handle = nil
}

// alive says whether a process runs.
func alive(pid int) bool {
	_, err := process.Find(pid)
	return !errors.Is(err, process.ErrEnded)
}

// info asks how the VM is.
func (vm *VM) info(t testing.TB) hypervisor.VMInfo {
	t.Helper()
	info, err := vm.Handle.GetVMInfo(vm.suite.ctx(t))
	require.NoError(t, err, "GetVMInfo")
	require.NotNil(t, info, "GetVMInfo returned nil without an error")
	return *info
}

// expectState checks the state that GetVMInfo tells, and that events agree.
func (vm *VM) expectState(t testing.TB, want hypervisor.VMState) {
	t.Helper()
	require.Equal(t, want, vm.info(t).State, "the state that GetVMInfo tells")
	if vm.events == nil {
		return
	}
	last, ok := vm.events.awaitState(vm.suite.b.Timeout, want)
	require.True(t, ok, "GetVMInfo says %s, but the last event with a state is %+v", want, last)
}

// expectEvent waits for an event of a kind behind the mark.
func (vm *VM) expectEvent(t testing.TB, mark int, kind hypervisor.EventKind) hypervisor.Event {
	t.Helper()
	if vm.events == nil {
		return hypervisor.Event{Kind: kind}
	}
	e, ok := vm.events.await(vm.suite.b.Timeout, mark, kind)
	require.True(t, ok, "no event %q within %s; there were %+v", kind, vm.suite.b.Timeout, vm.events.all()[mark:])
	require.False(t, e.Time.IsZero(), "event %q has no time", kind)
	return e
}

func (vm *VM) mark() int {
	if vm.events == nil {
		return 0
	}
	return len(vm.events.all())
}

// promptly runs f, which must return within d.
func promptly(t testing.TB, d time.Duration, what string, f func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
		t.Fatalf("%s has not returned within %s", what, d)
		return nil
	}
}

// eventually looks until ok says so. It is for what nothing tells of.
func eventually(d time.Duration, ok func() bool) bool {
	for end := time.Now().Add(d); ; time.Sleep(5 * time.Millisecond) {
		if ok() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}
