package streams

import (
	"bytes"
	"context"
	"io"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/backends/sim"
	"vmfs/machine"
)

func TestMain(m *testing.M) {
	sim.New(sim.Config{}).Register()
	os.Exit(m.Run())
}

// rig is a running simulated VM with vsock, and the streams of its host.
func rig(t *testing.T, linger time.Duration) (*Guests, *machine.VM) {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "vmfs")
	require.NoError(t, err)
	host, err := machine.Open(context.Background(), machine.Options{StateDir: dir, DefaultBackend: hypervisor.TypeSim})
	require.NoError(t, err)
	vm, err := host.Create("web", machine.Owner{Mode: 0o700})
	require.NoError(t, err)
	require.NoError(t, vm.SetConfig(t.Context(), "vsock.cid=3", false))
	require.NoError(t, vm.Start(t.Context()))
	v := New(host, linger)
	t.Cleanup(func() {
		v.Close(t.Context())
		if vm.State() != hypervisor.StateShutdown {
			require.NoError(t, vm.Kill(context.Background()))
		}
		require.NoError(t, host.Close())
		require.NoError(t, os.RemoveAll(dir))
	})
	return v, vm
}

// soon runs f, which has to come to its end.
func soon(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		require.Fail(t, what+" hangs")
	}
}

// streams is how many streams there are of a VM, and users how many wait at a port of
// the host or have a stream of it.
func (v *Guests) streams(vm *machine.VM) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	if m := v.vms[vm]; m != nil {
		return len(m.streams)
	}
	return 0
}

func (v *Guests) users(vm *machine.VM, port uint32) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	if m := v.vms[vm]; m != nil {
		if l := m.listeners[port]; l != nil && (l.ln != nil || l.err != nil) {
			return max(l.users, 1)
		}
	}
	return 0
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	require.Eventually(t, f, 10*time.Second, time.Millisecond, what)
}

// line reads what there is.
func line(t *testing.T, s Stream) string {
	t.Helper()
	buf := make([]byte, 1000)
	n, err := s.Read(t.Context(), buf)
	require.NoError(t, err)
	return string(buf[:n])
}

// say types a command at the guest's console.
func say(t *testing.T, vm *machine.VM, text string) {
	t.Helper()
	_, err := vm.WriteConsole(t.Context(), []byte(text+"\n"))
	require.NoError(t, err)
}

// TestFlush cancels what waits: a read, a write, a dial and a listen.
func TestFlush(t *testing.T) {
	v, vm := rig(t, 0)
	cancelled := func(what string, f func(ctx context.Context) (int, error)) int {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(20*time.Millisecond, cancel)
		var n int
		soon(t, what, func() {
			var err error
			if n, err = f(ctx); n == 0 {
				assert.ErrorIs(t, err, context.Canceled, what)
			}
		})
		return n
	}
	s, err := v.Dial(t.Context(), vm, sim.PortEcho)
	require.NoError(t, err)
	cancelled("read", func(ctx context.Context) (int, error) { return s.Read(ctx, make([]byte, 10)) })
	// A cancelled write says how much it took; that comes back, and nothing else.
	big := make([]byte, 1<<20)
	n := cancelled("write", func(ctx context.Context) (int, error) { return s.Write(ctx, big) })
	assert.Positive(t, n)
	assert.Less(t, n, len(big))
	require.NoError(t, s.shutdown(t.Context()))
	back := 0
	for buf := make([]byte, 4096); ; {
		m, err := s.Read(t.Context(), buf)
		back += m
		if err != nil {
			require.ErrorIs(t, err, io.EOF)
			break
		}
	}
	assert.Equal(t, n, back)
	s.Close()
	cancelled("listen", func(ctx context.Context) (int, error) { _, err := v.Accept(ctx, vm, 514); return 0, err })
	require.NoError(t, vm.Pause(t.Context()))
	cancelled("dial", func(ctx context.Context) (int, error) { _, err := v.Dial(ctx, vm, sim.PortEcho); return 0, err })
	require.NoError(t, vm.Resume(t.Context()))
	assert.Zero(t, v.streams(vm))
}

// TestListen has several who take the guest's connections at one port.
func TestListen(t *testing.T) {
	v, vm := rig(t, 0)
	console := Console(vm)
	defer console.Close()
	expect := func(text string) {
		t.Helper()
		var got []byte
		soon(t, "the console's "+text, func() {
			for !bytes.Contains(got, []byte(text)) {
				got = append(got, line(t, console)...)
			}
		})
	}
	opened := make(chan *Conn, 2)
	for range 2 {
		go func() {
			s, err := v.Accept(t.Context(), vm, 514)
			assert.NoError(t, err)
			opened <- s
		}()
	}
	eventually(t, "two wait", func() bool { return v.users(vm, 514) == 2 })
	say(t, vm, "dial 514 one")
	first := <-opened
	say(t, vm, "dial 514 two")
	second := <-opened
	assert.ElementsMatch(t, []string{"one\n", "two\n"}, []string{line(t, first), line(t, second)})

	// The listener is there as long as one of its streams is.
	first.Close()
	say(t, vm, "dial 514 three")
	expect("connected")
	third, err := v.Accept(t.Context(), vm, 514)
	require.NoError(t, err)
	assert.Equal(t, "three\n", line(t, third))
	third.Close()
	second.Close()
	eventually(t, "the port is free", func() bool { return v.users(vm, 514) == 0 })
	say(t, vm, "dial 514 four")
	expect("connection refused")

	// An announcement ends with its conversation.
	c, err := v.Converse(vm)
	require.NoError(t, err)
	require.NoError(t, c.Command(t.Context(), "announce 515"))
	data := make(chan Stream, 1)
	go func() {
		s, err := c.Data(t.Context())
		assert.NoError(t, err)
		data <- s
	}()
	say(t, vm, "dial 515 five")
	s := <-data
	assert.Equal(t, "five\n", line(t, s))
	s.Close()
	c.Close()
	eventually(t, "the port is free", func() bool { return v.users(vm, 515) == 0 })

	// Whoever waits is told of the VM's end.
	failed := make(chan error, 1)
	go func() { _, err := v.Accept(t.Context(), vm, 517); failed <- err }()
	eventually(t, "one waits", func() bool { return v.users(vm, 517) == 1 })
	require.NoError(t, vm.Kill(t.Context()))
	assert.ErrorIs(t, <-failed, hypervisor.ErrHypervisorNotRunning)
	eventually(t, "the port is free", func() bool { return v.users(vm, 517) == 0 })
}

// TestCloseDelivers closes a stream right after the last write, of data that the
// guest has not read yet.
func TestCloseDelivers(t *testing.T) {
	v, vm := rig(t, 0)
	s, err := v.Dial(t.Context(), vm, sim.PortDiscard)
	require.NoError(t, err)
	require.NoError(t, vm.Pause(t.Context())) // from here on the guest reads nothing
	for left := 50 << 10; left > 0; {
		n, err := s.Write(t.Context(), make([]byte, left))
		require.NoError(t, err)
		left -= n
	}
	soon(t, "close", s.Close)
	assert.Equal(t, 1, v.streams(vm), "it lingers")
	require.NoError(t, vm.Resume(t.Context()))
	eventually(t, "the guest has read it all, and ended", func() bool { return v.streams(vm) == 0 })
}

// leaveStuck closes a stream that was written to and that the guest never ends.
func leaveStuck(t *testing.T, v *Guests, vm *machine.VM) {
	t.Helper()
	s, err := v.Dial(t.Context(), vm, sim.PortChargen)
	require.NoError(t, err)
	_, err = s.Write(t.Context(), []byte("x"))
	require.NoError(t, err)
	s.Close()
}

// TestLinger bounds how long a closed stream is kept.
func TestLinger(t *testing.T) {
	v, vm := rig(t, 50*time.Millisecond)
	leaveStuck(t, v, vm)
	eventually(t, "it is given up", func() bool { return v.streams(vm) == 0 })
}

// TestClose ends everything that there can be.
func TestClose(t *testing.T) {
	v, vm := rig(t, time.Hour)
	leaveStuck(t, v, vm)
	c, err := v.Converse(vm)
	require.NoError(t, err)
	require.NoError(t, c.Command(t.Context(), "connect 19"))
	_, err = c.Data(t.Context())
	require.NoError(t, err)
	announced, err := v.Converse(vm)
	require.NoError(t, err)
	require.NoError(t, announced.Command(t.Context(), "announce 6"))
	waits := make(chan error, 1)
	go func() { _, err := v.Accept(t.Context(), vm, 5); waits <- err }()
	assert.Equal(t, 2, v.streams(vm))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	soon(t, "the end", func() { v.Close(ctx) })
	assert.Zero(t, v.streams(vm))
	assert.ErrorIs(t, <-waits, machine.ErrClosed)
	_, err = v.Dial(t.Context(), vm, sim.PortEcho)
	assert.ErrorIs(t, err, machine.ErrClosed)
}
