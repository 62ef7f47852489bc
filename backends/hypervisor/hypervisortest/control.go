package hypervisortest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
)

// testCapabilities checks that what is lacking says so and changes nothing, and
// that what is there does not. That it works is for the other subtests.
func (s *suite) testCapabilities(t *testing.T) {
	vm := s.vm(t)
	before := vm.info(t)
	for _, m := range vm.methods(t, s.b.Timeout) {
		if m.ends {
			continue
		}
		err := m.call(s.ctx(t))
		switch {
		case !m.able:
			assert.ErrorIs(t, err, hypervisor.ErrNotSupported, "%s, whose capability is false", m.name)
		case err != nil && !errors.Is(err, errOpened):
			assert.NoError(t, err, "%s, whose capability is true", m.name)
		}
		if m.name == "Pause" && m.able {
			require.NoError(t, vm.Handle.Resume(s.ctx(t)), "Resume")
		}
	}
	assert.Equal(t, before.State, vm.info(t).State, "the state after calls of every method")

	caps := vm.Handle.Capabilities()
	if c, ok := s.b.Starter.(hypervisor.Capable); ok {
		assert.Equal(t, caps, c.Capabilities(vm.Config), "what the starter says of the VM's configuration, and its handle")
		with := vm.Config
		with.PCIDevices = []string{"0000:01:00.0"}
		passed := c.Capabilities(with)
		assert.False(t, passed.SupportsGPUPassthrough && passed.SupportsSnapshot, "nobody can save a device of the host")
	}
	if !caps.SupportsSnapshot {
		dir := s.dir(t)
		pid, hv, err := s.b.Starter.RestoreVM(s.ctx(t), s.b.Paths, "", s.socket(dir), t.TempDir())
		s.expectNothing(t, dir, pid, hv, err)
	}
	if vm.Config.VsockCID != 0 || vm.Config.VsockSocket != "" {
		assert.True(t, caps.SupportsVsock, "a VM with a vsock started, but the capability is false")
	}
	for _, lack := range []struct {
		name  string
		has   bool
		spoil func(*hypervisor.VMConfig)
	}{
		{"a PCI device", caps.SupportsGPUPassthrough, func(c *hypervisor.VMConfig) { c.PCIDevices = []string{"0000:01:00.0"} }},
		{"a disk's limit", caps.SupportsDiskIOLimit, func(c *hypervisor.VMConfig) {
			c.Disks = append(c.Disks, limitedDisk(t))
		}},
	} {
		if lack.has {
			continue
		}
		t.Logf("this machine or back end lacks %s: only that it is refused is tested", lack.name)
		dir := s.dir(t)
		config := s.config(t, dir)
		lack.spoil(&config)
		pid, hv, err := s.b.Starter.StartVM(s.ctx(t), s.b.Paths, "", s.socket(dir), config)
		s.expectNothing(t, dir, pid, hv, err)
		assert.ErrorIs(t, err, hypervisor.ErrNotSupported, "StartVM with %s, whose capability is false", lack.name)
	}
	if caps.SupportsDiskIOLimit {
		dir := s.dir(t)
		config := s.config(t, dir)
		config.Disks = append(config.Disks, limitedDisk(t))
		pid, hv, err := s.b.Starter.StartVM(s.ctx(t), s.b.Paths, "", s.socket(dir), config)
		require.NoError(t, err, "StartVM with a disk's limit, whose capability is true")
		limited := s.adopt(t, pid, hv, s.socket(dir), config)
		limited.expectState(t, hypervisor.StateRunning)
		limited.discard(t)
	}
}

// limitedDisk makes a raw disk of a megabyte, with a limit on its throughput.
func limitedDisk(t testing.TB) hypervisor.DiskConfig {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.raw")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	require.NoError(t, os.Truncate(path, 1<<20))
	return hypervisor.DiskConfig{Path: path, Format: hypervisor.DiskRaw, IOBps: 1 << 20}
}

func (s *suite) testPause(t *testing.T) {
	vm := s.vm(t)
	if !vm.Handle.Capabilities().SupportsPause {
		t.Skip("the back end cannot pause; that it says so is tested")
	}
	for range 3 {
		mark := vm.mark()
		require.NoError(t, vm.Handle.Pause(s.ctx(t)), "Pause")
		vm.expectState(t, hypervisor.StatePaused)
		e := vm.expectEvent(t, mark, hypervisor.EventPaused)
		if vm.events != nil {
			assert.Equal(t, hypervisor.StatePaused, e.State, "the state in the event of a pause")
		}
		require.NoError(t, vm.Handle.Pause(s.ctx(t)), "Pause of a paused VM")
		vm.expectState(t, hypervisor.StatePaused)

		mark = vm.mark()
		require.NoError(t, vm.Handle.Resume(s.ctx(t)), "Resume")
		vm.expectState(t, hypervisor.StateRunning)
		e = vm.expectEvent(t, mark, hypervisor.EventRunning)
		if vm.events != nil {
			assert.Equal(t, hypervisor.StateRunning, e.State, "the state in the event of a resume")
		}
		require.NoError(t, vm.Handle.Resume(s.ctx(t)), "Resume of a running VM")
		vm.expectState(t, hypervisor.StateRunning)
	}

	conn, ok := vm.openConsole(t)
	if !ok {
		return
	}
	require.NoError(t, vm.Handle.Pause(s.ctx(t)), "Pause")
	typed, want := s.b.Echo(newToken())
	if got, err := converse(conn, typed, want, s.b.Deadline); err == nil {
		t.Errorf("the guest of a paused VM answered %q", got)
	}
	require.NoError(t, conn.Close())
	require.NoError(t, vm.Handle.Resume(s.ctx(t)), "Resume")
	// What was typed meanwhile may be lost with its connection; the guest is not.
	vm.expectAlive(t)
}

func (s *suite) testContexts(t *testing.T) {
	vm := s.vm(t)
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	past, cancel := context.WithDeadline(context.Background(), time.Now().Add(-time.Hour))
	defer cancel()
	for _, m := range vm.methods(t, s.b.Timeout) {
		err := promptly(t, s.b.Prompt, m.name+" with a cancelled context", func() error { return m.call(cancelled) })
		m.expectError(t, err, context.Canceled, "with a cancelled context")
		err = promptly(t, s.b.Prompt, m.name+" past its deadline", func() error { return m.call(past) })
		m.expectError(t, err, context.DeadlineExceeded, "past its deadline")
	}
	vm.expectState(t, hypervisor.StateRunning)
	vm.expectAlive(t)

	caps := vm.Handle.Capabilities()
	if !caps.SupportsPause || !caps.SupportsHotplugMemory {
		return
	}
	// A paused guest does not follow, so that the wait ends by its context alone.
	require.NoError(t, vm.Handle.Pause(s.ctx(t)), "Pause")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	time.AfterFunc(s.b.Deadline, cancel)
	err := promptly(t, s.b.Deadline+s.b.Prompt, "ResizeMemoryAndWait whose context is cancelled", func() error {
		return vm.Handle.ResizeMemoryAndWait(ctx, vm.smaller(), s.b.Timeout)
	})
	assert.ErrorIs(t, err, context.Canceled, "ResizeMemoryAndWait whose context is cancelled")
	require.NoError(t, vm.Handle.Resume(s.ctx(t)), "Resume")
	vm.resize(t, vm.Config.MemoryBytes)
}

func (s *suite) testConcurrency(t *testing.T) {
	vm := s.vm(t)
	var callers sync.WaitGroup
	for range 4 {
		for _, m := range vm.methods(t, s.b.Timeout) {
			// A wait for memory may last as long as another caller pauses, and
			// snapshots take their time.
			if m.ends || m.name == "Snapshot" || m.name == "ResizeMemoryAndWait" {
				continue
			}
			callers.Go(func() {
				for range 5 {
					err := m.call(s.ctx(t))
					switch {
					case err == nil, errors.Is(err, hypervisor.ErrBusy):
					case m.name == "OpenConsole": // takes one connection at a time
					case !m.able && errors.Is(err, hypervisor.ErrNotSupported):
					default:
						t.Errorf("%s among others: %v", m.name, err)
					}
				}
			})
		}
	}
	callers.Wait()
	if vm.Handle.Capabilities().SupportsPause {
		require.NoError(t, vm.Handle.Resume(s.ctx(t)), "Resume")
	}
	vm.expectState(t, hypervisor.StateRunning)
	vm.expectAlive(t)
}

func (s *suite) testAnotherHandle(t *testing.T) {
	vm := s.vm(t)
	caps := vm.Handle.Capabilities()
	state := hypervisor.StateRunning

	// A call that waits ends with its handle.
	waited := make(chan error, 1)
	closes := isCloser(vm.Handle)
	waits := closes && caps.SupportsPause && caps.SupportsHotplugMemory
	if caps.SupportsPause {
		state = hypervisor.StatePaused
		require.NoError(t, vm.Handle.Pause(s.ctx(t)), "Pause")
	}
	first := vm.Handle
	if waits {
		ctx := s.ctx(t)
		go func() { waited <- first.ResizeMemoryAndWait(ctx, vm.smaller(), 2*s.b.Timeout) }()
		time.Sleep(s.b.Deadline / 5) // mostly it waits by now; if not, it still must fail
	}
	_ = promptly(t, s.b.Prompt, "Close", func() error { return hypervisor.CloseHandle(first) })
	if waits {
		err := promptly(t, s.b.Prompt, "a call that waits, after Close,", func() error { return <-waited })
		assert.Error(t, err, "a call that waited when its handle was closed")
	}
	if closes {
		_, err := first.GetVMInfo(s.ctx(t))
		assert.Error(t, err, "GetVMInfo of a closed handle")
		if vm.events != nil {
			assert.True(t, vm.events.closedWithin(s.b.Timeout), "the channel of Events is not closed with its handle")
		}
	}

	hv, err := hypervisor.NewClient(s.b.Type, vm.SocketPath)
	require.NoError(t, err, "NewClient on a VMM that runs, after Close of the first handle")
	vm.use(hv)
	if vm.PID != 0 {
		require.True(t, alive(vm.PID), "the process of the VMM ended with the handle")
	}
	assert.Equal(t, caps, hv.Capabilities(), "the capabilities by another handle")
	vm.expectIdentity(t)
	vm.expectState(t, state)
	if caps.SupportsPause {
		mark := vm.mark()
		require.NoError(t, hv.Resume(s.ctx(t)), "Resume by another handle")
		vm.expectEvent(t, mark, hypervisor.EventRunning)
	}
	vm.expectState(t, hypervisor.StateRunning)
	if waits {
		vm.resize(t, vm.Config.MemoryBytes)
	}
	vm.expectAlive(t)
}

func isCloser(hv hypervisor.Hypervisor) bool {
	_, ok := hv.(interface{ Close() error })
	return ok
}

func (s *suite) testReset(t *testing.T) {
	vm := s.vm(t)
	r, ok := vm.Handle.(hypervisor.Resetter)
	if !ok {
		t.Skip("the back end cannot reset")
	}
	for range 2 {
		mark, from := vm.mark(), vm.serialSize()
		require.NoError(t, r.Reset(s.ctx(t)), "Reset")
		vm.expectEvent(t, mark, hypervisor.EventReset)
		vm.booted = from
		vm.ready(t)
		vm.expectState(t, hypervisor.StateRunning)
	}
	vm.expectIdentity(t)
	vm.expectAlive(t)
}

// testNMI sends NMIs one after the other, each of which the guest is to get.
func (s *suite) testNMI(t *testing.T) {
	vm := s.vm(t)
	n, ok := vm.Handle.(hypervisor.NMIInjector)
	if !ok {
		t.Skip("the back end cannot inject an NMI")
	}
	require.NotEmpty(t, s.b.NMI, "Backend.NMI of a back end that can inject one")
	for range 3 {
		from := vm.serialSize()
		require.NoError(t, n.InjectNMI(s.ctx(t)), "InjectNMI")
		require.NoError(t, awaitFile(s.ctx(t), vm.Config.SerialLogPath, from, s.b.NMI), "the guest is to tell of the NMI")
		vm.expectState(t, hypervisor.StateRunning)
	}
	// A serial port may keep what is typed while the kernel prints until more is typed.
	size, since := vm.serialSize(), time.Now()
	require.True(t, eventually(s.b.Timeout, func() bool {
		if now := vm.serialSize(); now != size {
			size, since = now, time.Now()
		}
		return time.Since(since) > s.b.Deadline
	}), "the guest goes on to print")
	vm.expectAlive(t)
}

// hang makes the VMM hang until goOn is called.
func (vm *VM) hang(t testing.TB) (goOn func()) {
	t.Helper()
	if vm.suite.b.Hang != nil {
		return vm.suite.b.Hang(t, vm)
	}
	require.NotZero(t, vm.PID, "a back end without processes needs Backend.Hang")
	require.NoError(t, syscall.Kill(vm.PID, syscall.SIGSTOP))
	// Its threads run on until one of them has taken the signal.
	require.True(t, eventually(vm.suite.b.Timeout, func() bool { return stopped(vm.PID) }), "process %d does not stop", vm.PID)
	return func() { assert.NoError(t, syscall.Kill(vm.PID, syscall.SIGCONT)) }
}

// stopped tells whether a process is stopped, as far as that can be seen.
func stopped(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return true
	}
	// The state is behind the program's name in brackets.
	return bytes.HasPrefix(b[bytes.LastIndexByte(b, ')')+1:], []byte(" T"))
}

func (s *suite) testHang(t *testing.T) {
	other := s.vm(t)
	vm := s.launch(t)
	defer vm.discard(t)
	d := s.b.Deadline
	try := func(m method) {
		err := promptly(t, d+s.b.Prompt, m.name+" of a VMM that hangs", func() error {
			ctx, cancel := context.WithTimeout(context.Background(), d)
			defer cancel()
			return m.call(ctx)
		})
		if !errors.Is(err, errOpened) {
			m.expectError(t, err, context.DeadlineExceeded, "of a VMM that hangs, at its deadline")
		}
	}

	goOn := vm.hang(t)
	for _, m := range vm.methods(t, s.b.Timeout) {
		if !m.ends {
			try(m)
		}
	}
	if vm.Handle.Capabilities().SupportsHotplugMemory {
		err := promptly(t, d+s.b.Prompt, "ResizeMemoryAndWait of a VMM that hangs", func() error {
			return vm.Handle.ResizeMemoryAndWait(context.Background(), vm.Config.MemoryBytes, d)
		})
		assert.ErrorIs(t, err, context.DeadlineExceeded, "ResizeMemoryAndWait of a VMM that hangs, at its timeout")
	}
	began := time.Now()
	other.info(t)
	assert.Less(t, time.Since(began), s.b.Prompt, "a VM waited for another whose VMM hangs")

	goOn()
	// What had been asked may take effect now, but the VM is to be had again.
	var err error
	assert.True(t, eventually(s.b.Timeout, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), s.b.Timeout)
		defer cancel()
		_, err = vm.Handle.GetVMInfo(ctx)
		return err == nil
	}), "GetVMInfo of a VMM that goes on: %v", err)
	if vm.Handle.Capabilities().SupportsPause {
		require.NoError(t, vm.Handle.Pause(s.ctx(t)), "Pause of a VMM that goes on")
		assert.Equal(t, hypervisor.StatePaused, vm.info(t).State, "the state after a Pause of a VMM that goes on")
		require.NoError(t, vm.Handle.Resume(s.ctx(t)), "Resume of a VMM that goes on")
		assert.Equal(t, hypervisor.StateRunning, vm.info(t).State, "the state after a Resume of a VMM that goes on")
	}

	vm.hang(t)
	for _, m := range vm.methods(t, s.b.Timeout) {
		if m.ends && m.name != "Kill" {
			try(m)
		}
	}
	// A factory has no context, and must not wait for ever.
	_ = promptly(t, s.b.Timeout, "NewClient on a VMM that hangs", func() error {
		hv, err := hypervisor.NewClient(s.b.Type, vm.SocketPath)
		if err == nil {
			return hypervisor.CloseHandle(hv)
		}
		return nil // either is right
	})
	require.NoError(t, vm.kill(s.ctx(t)), "kill of a VMM that hangs")
	vm.expectGone(t)
}
