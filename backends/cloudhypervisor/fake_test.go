package cloudhypervisor

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/cloudhypervisor/api"
	"vmfs/backends/cloudhypervisor/chtest"
	"vmfs/backends/handle"
	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
	"vmfs/backends/rundir"
	"vmfs/backends/starter"
	"vmfs/internal/unixsock"
	"vmfs/internal/wait"
)

const patience = 20 * time.Second

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// A fake is a VM of chtest's.
type fake struct {
	*VM
	t      *testing.T
	s      *Starter
	config hypervisor.VMConfig
	socket string

	mu     sync.Mutex // guards the fields below
	events []hypervisor.Event
	closed bool
}

// newFake makes a starter of a VMM as c says, and a configuration.
func newFake(t *testing.T, c chtest.Config) *fake {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "vmfs") // short enough for sockets
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	kernel := filepath.Join(dir, "vmlinuz")
	require.NoError(t, os.WriteFile(kernel, nil, 0o600))
	return &fake{
		t: t, s: New(Config{Binary: chtest.Program(t, c), Log: slog.New(slog.NewTextHandler(t.Output(), nil))}),
		config: hypervisor.VMConfig{
			Name: "web", UUID: "5a0e6d3c-1111-4222-8333-444455556666", MemoryBytes: 64 << 20, KernelPath: kernel,
			SerialLogPath: filepath.Join(dir, "console.log"), LogPath: filepath.Join(dir, "log"), VsockCID: 7,
		},
		socket: filepath.Join(dir, "run", SocketName),
	}
}

// start starts the VM, which ends with the test.
func (f *fake) start() error {
	pid, hv, err := f.s.StartVM(testContext(f.t), nil, "", f.socket, f.config)
	if err != nil {
		assert.Nil(f.t, hv)
		return err
	}
	f.use(hv.(*VM))
	require.Equal(f.t, pid, f.proc.PID)
	child := f.Child
	f.t.Cleanup(func() { _ = child.Kill() })
	return nil
}

// use follows a handle from here on.
func (f *fake) use(vm *VM) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.VM, f.events, f.closed = vm, nil, false
	f.t.Cleanup(func() { _ = vm.Close() })
	events := vm.Events()
	go func() { // ends with the handle
		for e := range events {
			f.mu.Lock()
			f.events = append(f.events, e)
			f.mu.Unlock()
		}
		f.mu.Lock()
		f.closed = f.VM == vm
		f.mu.Unlock()
	}()
}

// reopen makes another handle, as a server does that was restarted.
func (f *fake) reopen() {
	f.t.Helper()
	if f.VM != nil {
		require.NoError(f.t, f.Close())
	}
	vm, err := f.s.Open(f.socket)
	require.NoError(f.t, err)
	f.use(vm)
}

// expect waits for an event of a kind, and returns it.
func (f *fake) expect(kind hypervisor.EventKind) (found hypervisor.Event) {
	f.t.Helper()
	err := wait.Until(testContext(f.t), 5*time.Millisecond, func() (bool, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, e := range f.events {
			if e.Kind == kind {
				found = e
				return true, nil
			}
		}
		return false, nil
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	require.NoError(f.t, err, "%s of %v", kind, f.events)
	return found
}

// expectOver waits until the VMM is gone, and the handle says so.
func (f *fake) expectOver() {
	f.t.Helper()
	require.NoError(f.t, f.proc.Wait(testContext(f.t)))
	assert.Eventually(f.t, func() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.closed }, patience, 5*time.Millisecond)
	_, err := f.GetVMInfo(testContext(f.t))
	require.ErrorIs(f.t, err, hypervisor.ErrHypervisorNotRunning)
}

func (f *fake) state() vmState {
	f.t.Helper()
	info, err := f.GetVMInfo(testContext(f.t))
	require.NoError(f.t, err)
	return vmState{info.State, info.Reason}
}

func (f *fake) provoke(a chtest.Action) {
	f.t.Helper()
	require.NoError(f.t, chtest.Provoke(testContext(f.t), f.socket, a))
}

func TestLife(t *testing.T) {
	t.Parallel()
	f := newFake(t, chtest.Config{})
	ctx := testContext(t)
	require.NoError(t, f.start())
	assert.Equal(t, hypervisor.StateRunning, f.expect(hypervisor.EventRunning).State)
	assert.Equal(t, vmState{hypervisor.StateRunning, ""}, f.state())
	id, err := f.Identify(ctx)
	require.NoError(t, err)
	assert.Equal(t, hypervisor.Identity{Name: "web", UUID: f.config.UUID, PID: f.proc.PID}, id)

	for range 2 {
		require.NoError(t, f.Pause(ctx))
		assert.Equal(t, vmState{hypervisor.StatePaused, ""}, f.state())
	}
	f.expect(hypervisor.EventPaused)
	require.NoError(t, f.Reset(ctx))
	f.expect(hypervisor.EventReset)
	assert.Equal(t, hypervisor.StatePaused, f.state().state, "a paused VM stays paused")
	for range 2 {
		require.NoError(t, f.Resume(ctx))
		assert.Equal(t, hypervisor.StateRunning, f.state().state)
	}
	require.NoError(t, f.InjectNMI(ctx))

	d, err := f.VsockDialer()
	require.NoError(t, err)
	conn, err := d.DialVsock(ctx, chtest.EchoPort)
	require.NoError(t, err)
	require.NoError(t, conn.Close())

	// It outlives its handle, and is the same for another.
	f.reopen()
	again, err := f.Identify(ctx)
	require.NoError(t, err)
	assert.Equal(t, id, again)
	require.NoError(t, f.DeleteVM(ctx))
	f.expect(hypervisor.EventPowerdown)
	e := f.expect(hypervisor.EventShutdown)
	assert.Equal(t, vmState{hypervisor.StateShutdown, handle.ReasonGuestShutdown}, vmState{e.State, e.Reason})
	f.expectOver()

	// A start after that is a new boot.
	require.NoError(t, f.start())
	assert.Equal(t, hypervisor.StateRunning, f.state().state)
	require.NoError(t, f.Shutdown(ctx))
	assert.Equal(t, reasonVMMShutdown, f.expect(hypervisor.EventShutdown).Reason)
	f.expectOver()
}

// TestEndsElsewhere are guests and VMMs that end while there is a handle, and while there is none.
func TestEndsElsewhere(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		end    func(f *fake)
		state  hypervisor.VMState
		kind   hypervisor.EventKind
		reason string
		over   bool
	}{
		"guest powers off": {func(f *fake) { f.provoke(chtest.PowersOff) }, hypervisor.StateShutdown, hypervisor.EventShutdown, handle.ReasonGuestShutdown, true},
		"guest panics":     {func(f *fake) { f.provoke(chtest.Panics) }, hypervisor.StatePaused, hypervisor.EventPanicked, handle.ReasonPanicked, false},
	} {
		for _, away := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				f := newFake(t, chtest.Config{})
				require.NoError(t, f.start())
				if away {
					require.NoError(t, f.Close())
				}
				c.end(f)
				if away {
					f.reopen()
				}
				e := f.expect(c.kind)
				assert.Equal(t, vmState{c.state, c.reason}, vmState{e.State, e.Reason})
				if c.over {
					f.expectOver()
					return
				}
				assert.Equal(t, vmState{c.state, c.reason}, f.state())
				ctx := testContext(t)
				require.ErrorIs(t, f.Resume(ctx), hypervisor.ErrBusy)
				require.NoError(t, f.Reset(ctx))
				assert.Equal(t, vmState{hypervisor.StatePaused, ""}, f.state())
				require.NoError(t, f.Resume(ctx))
				assert.Equal(t, vmState{hypervisor.StateRunning, ""}, f.state())
			})
		}
	}
}

func TestKilled(t *testing.T) {
	t.Parallel()
	f := newFake(t, chtest.Config{})
	require.NoError(t, f.start())
	require.NoError(t, f.proc.Signal(syscall.SIGKILL))
	e := f.expect(hypervisor.EventShutdown)
	assert.Equal(t, hypervisor.ReasonVMMDied, e.Reason)
	assert.Equal(t, []hypervisor.Detail{{Key: "exit", Value: "signal: killed"}}, e.Detail)
	f.expectOver()
	_, err := f.s.Open(f.socket)
	require.ErrorIs(t, err, hypervisor.ErrHypervisorNotRunning)
	require.FileExists(t, f.socket, "it is left")
	require.NoError(t, f.start(), "and in nobody's way")
}

// TestFailingStart is a VMM at each of whose calls something goes wrong.
func TestFailingStart(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fault chtest.Fault
		says  string
		is    error
	}{
		"refuses to create":  {chtest.Fault{Call: "vm.create", Kind: chtest.Failed, Status: 500, Body: `["Error from API","The VM could not be created","no serial"]`}, "no serial", nil},
		"refuses to boot":    {chtest.Fault{Call: "vm.boot", Kind: chtest.Refused, Status: 500, Body: `["Error from API","The VM could not boot","no KVM"]`}, "no KVM", nil},
		"says it as text":    {chtest.Fault{Call: "vm.boot", Kind: chtest.Refused, Status: 500, Body: "no memory"}, "no memory", nil},
		"dies before create": {chtest.Fault{Call: "vm.create", Kind: chtest.DiesBefore}, "Cloud Hypervisor ended (signal: killed)", nil},
		"dies after boot":    {chtest.Fault{Call: "vm.boot", Kind: chtest.DiesAfter}, "Cloud Hypervisor ended (signal: killed)", nil},
		"hangs in boot":      {chtest.Fault{Call: "vm.boot", Kind: chtest.Hangs}, "no answer", context.DeadlineExceeded},
		"never answers":      {chtest.Fault{Call: "vmm.ping", Kind: chtest.Hangs}, "no answer", context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t, chtest.Config{Faults: []chtest.Fault{c.fault}})
			_, err := f.s.GetVersion(nil) // it is asked once, which takes its time
			require.NoError(t, err)
			most := patience
			if c.is != nil {
				most = 2 * time.Second // by which it hangs
			}
			ctx, cancel := context.WithTimeout(t.Context(), most)
			defer cancel()
			pid, hv, err := f.s.StartVM(ctx, nil, "", f.socket, f.config)
			require.Error(t, err)
			assert.Zero(t, pid)
			assert.Nil(t, hv)
			assert.ErrorContains(t, err, "cloud-hypervisor: start web: ")
			assert.ErrorContains(t, err, c.says)
			if c.is != nil {
				require.ErrorIs(t, err, c.is)
			}
			left, err := os.ReadDir(filepath.Dir(f.socket))
			require.NoError(t, err)
			assert.Empty(t, left)
			_, err = f.s.Open(f.socket)
			require.ErrorIs(t, err, hypervisor.ErrHypervisorNotRunning)
		})
	}
}

// TestKilledInAStart is a server that is killed at each step of a start: the next one finds nothing,
// or a VMM that it brings to run.
func TestKilledInAStart(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"started", "created", "booted"} {
		for _, recorded := range []bool{true, false} {
			t.Run(step, func(t *testing.T) {
				t.Parallel()
				f := newFake(t, chtest.Config{})
				ctx := testContext(t)
				pl, err := f.s.plan(ctx, starter.Request{SocketPath: f.socket}, f.config)
				require.NoError(t, err)
				vm, err := f.s.launch(ctx, pl)
				require.NoError(t, err)
				t.Cleanup(func() { _ = vm.Child.Kill() })
				if step != "started" {
					require.NoError(t, vm.client.Create(ctx, pl.vm))
				}
				if step == "booted" {
					require.NoError(t, vm.client.Boot(ctx))
				}
				pid := vm.Child.PID
				require.NoError(t, vm.Close())
				if !recorded {
					rec, err := rundir.Read[record](pl.dir.Dir)
					require.NoError(t, err)
					rec.Process = nil
					require.NoError(t, rundir.Write(pl.dir.Dir, rec))
				}
				f.reopen()
				id, err := f.Identify(ctx)
				require.NoError(t, err)
				assert.Equal(t, hypervisor.Identity{Name: "web", UUID: f.config.UUID, PID: pid}, id)
				if step != "booted" {
					assert.Equal(t, vmState{hypervisor.StateCreated, handle.ReasonPrelaunch}, f.state())
				}
				require.NoError(t, f.Resume(ctx))
				assert.Equal(t, vmState{hypervisor.StateRunning, ""}, f.state())
				assert.Eventually(t, func() bool {
					rec, err := rundir.Read[record](pl.dir.Dir)
					return err == nil && rec.Ran
				}, patience, 5*time.Millisecond)
			})
		}
	}
	f := newFake(t, chtest.Config{})
	dir, err := dirOf(f.socket)
	require.NoError(t, err)
	require.NoError(t, dir.Prepare())
	socket, err := unixsock.Bind(t.Context(), f.socket)
	require.NoError(t, err)
	require.NoError(t, socket.Close()) // as by the end of the server
	_, err = f.s.Open(f.socket)
	require.ErrorIs(t, err, hypervisor.ErrHypervisorNotRunning)
}

// TestAnotherVM is a VMM with another VM than the record says.
func TestAnotherVM(t *testing.T) {
	t.Parallel()
	f := newFake(t, chtest.Config{})
	require.NoError(t, f.start())
	require.NoError(t, f.rec.Change(func(r *rundir.Record) { r.Config.UUID = "5a0e6d3c-1111-4222-8333-000000000000" }))
	f.reopen()
	id, err := f.Identify(testContext(t))
	require.NoError(t, err)
	assert.Equal(t, hypervisor.Identity{UUID: f.config.UUID, PID: f.proc.PID}, id, "its own, and no name")
}

// TestEventsLostAndCut has the state right all the same.
func TestEventsLostAndCut(t *testing.T) {
	t.Parallel()
	f := newFake(t, chtest.Config{CutEvents: []string{"vm paused"}, LostEvents: []string{"vm shutdown"}})
	ctx := testContext(t)
	require.NoError(t, f.start())
	f.expect(hypervisor.EventRunning)
	require.NoError(t, f.Pause(ctx))
	require.NoError(t, f.Resume(ctx)) // whose event shows that something is missing before it
	f.expect(hypervisor.EventLost)
	f.provoke(chtest.PowersOff)
	assert.Equal(t, vmState{hypervisor.StateShutdown, handle.ReasonGuestShutdown}, f.state())
	require.NoError(t, f.Shutdown(ctx))
	f.expectOver()
}

// TestEventFileIsBounded is a guest that makes events for ever.
func TestEventFileIsBounded(t *testing.T) {
	t.Parallel()
	f := newFake(t, chtest.Config{})
	require.NoError(t, f.start())
	file, err := os.OpenFile(f.dir.events(), os.O_WRONLY|os.O_APPEND, 0)
	require.NoError(t, err)
	defer file.Close()
	record := []byte("{\n  \"timestamp\": {\n    \"secs\": 1,\n    \"nanos\": 0\n  },\n  \"source\": \"virtio-device\",\n  \"event\": \"reset\",\n  \"properties\": null\n}\n\n")
	for n := 0; n < maxEventFile+1; n += len(record) {
		_, err := file.Write(record)
		require.NoError(t, err)
	}
	assert.Eventually(t, func() bool {
		fi, err := file.Stat()
		return err == nil && fi.Size() < maxEventFile
	}, patience, 10*time.Millisecond)
	ctx := testContext(t)
	require.NoError(t, f.Pause(ctx))
	f.expect(hypervisor.EventPaused)
}

// TestHang is a VMM that does not answer: calls end with their contexts, and another VM's do not
// wait.
func TestHang(t *testing.T) {
	t.Parallel()
	f, other := newFake(t, chtest.Config{}), newFake(t, chtest.Config{})
	require.NoError(t, f.start())
	require.NoError(t, other.start())
	require.NoError(t, f.proc.Signal(syscall.SIGSTOP))
	assert.Eventually(t, func() bool { // it stops a moment later
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		defer cancel()
		_, err := f.GetVMInfo(ctx)
		return err != nil
	}, patience, time.Millisecond)
	for name, call := range map[string]func(context.Context) error{
		"pause": f.Pause, "resume": f.Resume, "reset": f.Reset, "poweroff": f.DeleteVM, "nmi": f.InjectNMI, "stop": f.Shutdown,
		"info":     func(ctx context.Context) error { _, err := f.GetVMInfo(ctx); return err },
		"identify": func(ctx context.Context) error { _, err := f.Identify(ctx); return err },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		err := call(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded, name)
		assert.ErrorContains(t, err, "cloud-hypervisor: "+name+" web: ")
		cancel()
	}
	assert.Equal(t, hypervisor.StateRunning, other.state().state)
	vm, err := f.s.Open(f.socket)
	require.NoError(t, err, "a handle does not wait for an answer")
	require.NoError(t, vm.Close())
	require.NoError(t, f.proc.Signal(syscall.SIGKILL))
	f.expectOver()
}

// TestSocketDisappears is a VMM that lives and cannot be reached.
func TestSocketDisappears(t *testing.T) {
	t.Parallel()
	f := newFake(t, chtest.Config{})
	require.NoError(t, f.start())
	require.NoError(t, os.Remove(f.socket))
	ctx := testContext(t)
	require.NoError(t, f.client.Close())
	f.client = api.New(f.socket) // without a connection that was kept
	_, err := f.GetVMInfo(ctx)
	require.Error(t, err)
	require.NotErrorIs(t, err, hypervisor.ErrHypervisorNotRunning, "it runs")
	assert.ErrorContains(t, err, "can only be killed")
	_, err = f.s.Open(f.socket)
	require.ErrorIs(t, err, hypervisor.ErrHypervisorNotRunning)
	require.NoError(t, f.proc.Signal(syscall.SIGKILL))
	assert.Equal(t, hypervisor.ReasonVMMDied, f.expect(hypervisor.EventShutdown).Reason)
	f.expectOver()
}

// TestClosedHandle gives no orders.
func TestClosedHandle(t *testing.T) {
	t.Parallel()
	f := newFake(t, chtest.Config{})
	require.NoError(t, f.start())
	require.NoError(t, f.Close())
	require.Error(t, f.Pause(testContext(t)))
	assert.True(t, f.proc.Alive())
	_, err := process.Find(f.proc.PID)
	require.NoError(t, err)
}

// TestRecords of another format are refused, and there may be none.
func TestRecords(t *testing.T) {
	t.Parallel()
	f := newFake(t, chtest.Config{})
	require.NoError(t, f.start())
	require.NoError(t, f.Close())
	require.NoError(t, os.WriteFile(f.dir.Record(), []byte(`{"format":2}`), 0o600))
	f.reopen() // it says so in the log
	id, err := f.Identify(testContext(t))
	require.NoError(t, err)
	assert.Equal(t, hypervisor.Identity{UUID: f.config.UUID, PID: f.proc.PID}, id)
	assert.Equal(t, hypervisor.StateRunning, f.state().state)
	require.NoError(t, os.Remove(f.dir.Record()))
	_, err = rundir.Read[record](f.dir.Dir)
	require.True(t, errors.Is(err, fs.ErrNotExist))
	f.reopen()
	assert.Equal(t, hypervisor.StateRunning, f.state().state)
	_, err = f.VsockDialer()
	require.Error(t, err)
}
