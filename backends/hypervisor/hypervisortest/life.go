package hypervisortest

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
)

const unknownType hypervisor.Type = "hypervisortest-unknown"

func (s *suite) testRegistry(t *testing.T) {
	assert.Equal(t, string(unknownType)+".sock", hypervisor.SocketNameForType(unknownType), "the fallback of SocketNameForType")
	_, err := hypervisor.NewClient(unknownType, filepath.Join(t.TempDir(), "x.sock"))
	assert.ErrorIs(t, err, hypervisor.ErrNotSupported, "NewClient of an unknown type")
	_, err = hypervisor.NewVsockDialer(unknownType, "", 3)
	assert.ErrorIs(t, err, hypervisor.ErrNotSupported, "NewVsockDialer of an unknown type")

	assert.Equal(t, s.b.Starter.SocketName(), hypervisor.SocketNameForType(s.b.Type), "the registered name of the control socket")
	dir := s.dir(t)
	_, err = hypervisor.NewClient(s.b.Type, filepath.Join(dir, "none.sock"))
	assert.ErrorIs(t, err, hypervisor.ErrHypervisorNotRunning, "NewClient where no socket is")
	staleSocket(t, s.socket(dir))
	_, err = hypervisor.NewClient(s.b.Type, s.socket(dir))
	assert.ErrorIs(t, err, hypervisor.ErrHypervisorNotRunning, "NewClient on a socket that nobody serves")
}

// staleSocket leaves a socket that nobody listens on, as a VMM does that died.
func staleSocket(t testing.TB, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	l.SetUnlinkOnClose(false)
	require.NoError(t, l.Close())
}

func (s *suite) testStarter(t *testing.T) {
	name := s.b.Starter.SocketName()
	assert.True(t, name != "" && name == filepath.Base(name) && len(name) < 40, "SocketName %q is no short file name", name)
	path, err := s.b.Starter.GetBinaryPath(s.b.Paths, "")
	require.NoError(t, err, "GetBinaryPath")
	_, err = os.Stat(path)
	require.NoError(t, err, "what GetBinaryPath names")
	version, err := s.b.Starter.GetVersion(s.b.Paths)
	require.NoError(t, err, "GetVersion")
	assert.NotEmpty(t, strings.TrimSpace(version), "GetVersion")
	assert.NotContains(t, version, "\n", "GetVersion is one line")
}

func (s *suite) testStart(t *testing.T) {
	dir := s.dir(t)
	config := s.config(t, dir)
	staleSocket(t, s.socket(dir)) // of an earlier VMM; to be cleared away
	pid, hv, err := s.b.Starter.StartVM(s.ctx(t), s.b.Paths, "", s.socket(dir), config)
	require.NoError(t, err, "StartVM, with a stale socket of an earlier VMM in its place")
	vm := s.adopt(t, pid, hv, s.socket(dir), config)
	s.shared = vm
	vm.expectState(t, hypervisor.StateRunning)
	vm.ready(t)
	info := vm.info(t)
	assert.Equal(t, hypervisor.StateRunning, info.State, "the state of a guest that is up")
	assert.Empty(t, info.Reason, "the reason of a VM that runs as it was asked to")
	if info.MemoryActualSize != nil {
		assert.InDelta(t, config.MemoryBytes, *info.MemoryActualSize, float64(s.b.MemoryStep), "MemoryActualSize of a new guest")
	}
	vm.expectAlive(t)
}

func (s *suite) testFailingStart(t *testing.T) {
	t.Run("bad configuration", func(t *testing.T) {
		dir := s.dir(t)
		config := s.config(t, dir)
		says := "no-such-kernel"
		if s.b.BadConfig != nil {
			says = s.b.BadConfig(t, &config)
		} else {
			config.KernelPath = filepath.Join(dir, says)
		}
		pid, hv, err := s.b.Starter.StartVM(s.ctx(t), s.b.Paths, "", s.socket(dir), config)
		s.expectNothing(t, dir, pid, hv, err)
		assert.ErrorContains(t, err, says, "the error does not carry what the VMM said")
	})
	t.Run("cancelled", func(t *testing.T) {
		dir := s.dir(t)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		pid, hv, err := s.b.Starter.StartVM(ctx, s.b.Paths, "", s.socket(dir), s.config(t, dir))
		s.expectNothing(t, dir, pid, hv, err)
		assert.ErrorIs(t, err, context.Canceled, "StartVM with a cancelled context")
	})
	// A deadline may strike anywhere in a start.
	for _, d := range []time.Duration{time.Millisecond, 20 * time.Millisecond, 100 * time.Millisecond} {
		t.Run("deadline of "+d.String(), func(t *testing.T) {
			dir := s.dir(t)
			config := s.config(t, dir)
			ctx, cancel := context.WithTimeout(context.Background(), d)
			defer cancel()
			var pid int
			var hv hypervisor.Hypervisor
			err := promptly(t, d+s.b.Prompt, "StartVM", func() (err error) {
				pid, hv, err = s.b.Starter.StartVM(ctx, s.b.Paths, "", s.socket(dir), config)
				return err
			})
			if err == nil {
				s.adopt(t, pid, hv, s.socket(dir), config).discard(t)
				return
			}
			s.expectNothing(t, dir, pid, hv, err)
			assert.ErrorIs(t, err, context.DeadlineExceeded, "StartVM at its deadline")
		})
	}
}

// expectNothing checks that a start failed and has left nothing.
func (s *suite) expectNothing(t *testing.T, dir string, pid int, hv hypervisor.Hypervisor, err error) {
	t.Helper()
	if err == nil {
		s.adopt(t, pid, hv, s.socket(dir), hypervisor.VMConfig{Name: filepath.Base(dir)}).discard(t)
		t.Fatal("the start succeeded")
	}
	assert.Zero(t, pid, "a failing start returned a process")
	assert.True(t, hv == nil, "a failing start returned a handle: %v", hv)
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type()&fs.ModeSocket != 0 {
			t.Errorf("a failing start left the socket %s", path)
		}
		return err
	}))
	for pid, command := range processesOf(dir) {
		t.Errorf("a failing start left the process %d: %s", pid, command)
	}
	other, err := hypervisor.NewClient(s.b.Type, s.socket(dir))
	assert.ErrorIs(t, err, hypervisor.ErrHypervisorNotRunning, "NewClient after a failing start")
	if err == nil {
		s.adopt(t, 0, other, s.socket(dir), hypervisor.VMConfig{}).discard(t)
	}
}

// processesOf finds the processes that name dir in their arguments, on systems
// where that can be seen.
func processesOf(dir string) map[int]string {
	found := make(map[int]string)
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is good
	for _, path := range lines {
		b, err := os.ReadFile(path)
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err == nil && strings.Contains(string(b), dir) && pid != os.Getpid() && alive(pid) {
			found[pid] = strings.ReplaceAll(string(b), "\x00", " ")
		}
	}
	return found
}

func (s *suite) testIdentity(t *testing.T) {
	s.vm(t).expectIdentity(t)
}

func (vm *VM) expectIdentity(t testing.TB) {
	t.Helper()
	i, ok := vm.Handle.(hypervisor.Identifier)
	if !ok {
		return
	}
	id, err := i.Identify(vm.suite.ctx(t))
	require.NoError(t, err, "Identify")
	assert.Equal(t, hypervisor.Identity{Name: vm.Config.Name, UUID: vm.Config.UUID, PID: vm.PID}, id, "Identify")
}

func (s *suite) testPowerOff(t *testing.T) {
	vm := s.vm(t)
	s.shared = nil
	defer vm.discard(t)
	mark := vm.mark()
	require.NoError(t, vm.Handle.DeleteVM(s.ctx(t)), "DeleteVM")
	e := vm.expectEvent(t, mark, hypervisor.EventShutdown)
	if vm.events != nil {
		assert.Equal(t, hypervisor.StateShutdown, e.State, "the state in the event of the guest's end")
		assert.NotEmpty(t, e.Reason, "the event of the guest's end says no reason")
	}
	if vm.expectShutdown(t) {
		require.NoError(t, vm.Handle.Shutdown(s.ctx(t)), "Shutdown of a VMM whose guest has ended")
	}
	vm.expectGone(t)
}

// expectShutdown waits for the guest's end, and says whether the VMM outlived it.
func (vm *VM) expectShutdown(t testing.TB) bool {
	t.Helper()
	var info *hypervisor.VMInfo
	var err error
	ended := eventually(vm.suite.b.Timeout, func() bool {
		info, err = vm.Handle.GetVMInfo(vm.suite.ctx(t))
		return errors.Is(err, hypervisor.ErrHypervisorNotRunning) || err == nil && info.State == hypervisor.StateShutdown
	})
	require.True(t, ended, "the guest has not ended: %+v, %v", info, err)
	if err == nil {
		assert.NotEmpty(t, info.Reason, "GetVMInfo says no reason for the shutdown")
	}
	return err == nil
}

func (s *suite) testShutdown(t *testing.T) {
	vm := s.launch(t)
	defer vm.discard(t)
	mark := vm.mark()
	require.NoError(t, vm.Handle.Shutdown(s.ctx(t)), "Shutdown")
	vm.expectGone(t)
	if e := vm.expectEvent(t, mark, hypervisor.EventShutdown); vm.events != nil {
		assert.NotEmpty(t, e.Reason, "the event of a Shutdown says no reason")
	}
	vm.expectNoSocketServed(t)
}

func (s *suite) testKill(t *testing.T) {
	vm := s.launch(t)
	defer vm.discard(t)
	require.NoError(t, vm.kill(s.ctx(t)))
	vm.expectGone(t)

	// What it left is in nobody's way.
	vm.expectNoSocketServed(t)
	pid, hv, err := s.b.Starter.StartVM(s.ctx(t), s.b.Paths, "", vm.SocketPath, vm.Config)
	require.NoError(t, err, "StartVM where a VMM was killed")
	again := s.adopt(t, pid, hv, vm.SocketPath, vm.Config)
	defer again.discard(t)
	again.expectState(t, hypervisor.StateRunning)
	again.expectIdentity(t)
}

// expectNoSocketServed checks that no socket of the VM takes connections.
func (vm *VM) expectNoSocketServed(t testing.TB) {
	t.Helper()
	c, err := net.DialTimeout("unix", vm.SocketPath, vm.suite.b.Timeout)
	if err == nil {
		_ = c.Close() // the failure is reported
		t.Errorf("somebody serves %s after the VMM's end", vm.SocketPath)
	}
}

func (s *suite) testStops(t *testing.T) {
	for _, stop := range s.b.Stops {
		t.Run(stop.Name, func(t *testing.T) {
			vm := s.boot(t)
			defer vm.discard(t)
			mark := vm.mark()
			stop.Provoke(t, vm)
			e := vm.expectEvent(t, mark, stop.Kind)
			if vm.events != nil {
				assert.Equal(t, stop.Reason, e.Reason, "the reason in the event %q", stop.Kind)
				last, ok := vm.events.awaitState(s.b.Timeout, stop.State)
				assert.True(t, ok, "the last state in events is %+v, not %s", last, stop.State)
			}
			if stop.State == hypervisor.StateShutdown {
				vm.expectShutdown(t)
				return
			}
			var info *hypervisor.VMInfo
			assert.True(t, eventually(s.b.Timeout, func() bool {
				var err error
				info, err = vm.Handle.GetVMInfo(s.ctx(t))
				return err == nil && info.State == stop.State && info.Reason == stop.Reason
			}), "GetVMInfo says %+v, not %s because of %s", info, stop.State, stop.Reason)
			require.NoError(t, vm.Handle.Shutdown(s.ctx(t)), "Shutdown of a VM whose guest has stopped")
			vm.expectGone(t)
		})
	}
}
