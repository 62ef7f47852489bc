package hypervisortest

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"vmfs/backends/hypervisor"
)

// A method is one call of a Hypervisor, for checks that hold for all of them.
type method struct {
	name string
	// able is whether its capability holds.
	able bool
	// ends is whether it may take the guest away if it works.
	ends bool
	call func(ctx context.Context) error
}

// methods lists the calls of the VM's handle, with those of the optional
// interfaces that it has. timeout is ResizeMemoryAndWait's own.
func (vm *VM) methods(t testing.TB, timeout time.Duration) []method {
	hv, caps := vm.Handle, vm.Handle.Capabilities()
	dir, memory := t.TempDir(), vm.Config.MemoryBytes
	list := []method{
		{"GetVMInfo", true, false, func(ctx context.Context) error {
			_, err := hv.GetVMInfo(ctx)
			return err
		}},
		{"Pause", caps.SupportsPause, false, hv.Pause},
		{"Resume", caps.SupportsPause, false, hv.Resume},
		{"Snapshot", caps.SupportsSnapshot, false, func(ctx context.Context) error { return hv.Snapshot(ctx, dir) }},
		{"ResizeMemory", caps.SupportsHotplugMemory, false, func(ctx context.Context) error {
			return hv.ResizeMemory(ctx, memory)
		}},
		{"ResizeMemoryAndWait", caps.SupportsHotplugMemory, false, func(ctx context.Context) error {
			return hv.ResizeMemoryAndWait(ctx, memory, timeout)
		}},
	}
	if i, ok := hv.(hypervisor.Identifier); ok {
		list = append(list, method{"Identify", true, false, func(ctx context.Context) error {
			_, err := i.Identify(ctx)
			return err
		}})
	}
	if c, ok := hv.(hypervisor.Console); ok {
		list = append(list, method{"OpenConsole", true, false, func(ctx context.Context) error {
			conn, err := c.OpenConsole(ctx)
			if err != nil {
				return err
			}
			return errors.Join(errOpened, conn.Close())
		}})
	}
	list = append(list, method{"DeleteVM", true, true, hv.DeleteVM})
	if r, ok := hv.(hypervisor.Resetter); ok {
		list = append(list, method{"Reset", true, true, r.Reset})
	}
	if n, ok := hv.(hypervisor.NMIInjector); ok {
		list = append(list, method{"InjectNMI", true, true, n.InjectNMI}) // some guests panic
	}
	list = append(list, method{"Shutdown", true, true, hv.Shutdown})
	if k, ok := hv.(hypervisor.Killer); ok {
		list = append(list, method{"Kill", true, true, k.Kill})
	}
	return list
}

// errOpened is a console that could be connected to. The socket of a hung VMM
// takes connections all the same.
var errOpened = errors.New("the console was opened")

// expectError checks that a method failed with want, or says that it cannot do
// it at all if it says so in the capabilities.
func (m method) expectError(t testing.TB, err, want error, when string) {
	t.Helper()
	if !m.able && errors.Is(err, hypervisor.ErrNotSupported) {
		return
	}
	assert.ErrorIs(t, err, want, "%s %s", m.name, when)
}

// expectGone checks that the VMM is gone, and that everything says so.
func (vm *VM) expectGone(t *testing.T) {
	t.Helper()
	s := vm.suite
	if vm.PID != 0 {
		assert.True(t, eventually(s.b.Timeout, func() bool { return !alive(vm.PID) }), "process %d still runs", vm.PID)
	}
	var err error
	gone := eventually(s.b.Timeout, func() bool {
		_, err = vm.Handle.GetVMInfo(s.ctx(t))
		return errors.Is(err, hypervisor.ErrHypervisorNotRunning)
	})
	if !assert.True(t, gone, "GetVMInfo of a VMM that is gone says %v, which is not ErrHypervisorNotRunning", err) {
		return
	}
	for _, m := range vm.methods(t, s.b.Timeout) {
		err := promptly(t, s.b.Prompt, m.name+" of a VMM that is gone", func() error { return m.call(s.ctx(t)) })
		m.expectError(t, err, hypervisor.ErrHypervisorNotRunning, "of a VMM that is gone")
	}
	if vm.events != nil {
		assert.True(t, vm.events.closedWithin(s.b.Timeout), "the VMM is gone, but the channel of Events is not closed")
	}
	hv, err := hypervisor.NewClient(s.b.Type, vm.SocketPath)
	assert.ErrorIs(t, err, hypervisor.ErrHypervisorNotRunning, "NewClient on a VMM that is gone")
	if err == nil {
		_ = hypervisor.CloseHandle(hv) // the failure is reported
	}
}

// typeAt types at the console and reads until want has come.
func (vm *VM) typeAt(t testing.TB, conn io.ReadWriter, typed, want string) {
	t.Helper()
	got, err := converse(conn, typed, want, vm.suite.b.Timeout)
	if err != nil {
		t.Fatalf("console: typed %q and read %q, without %q: %v", typed, got, want, err)
	}
}
