package chtest

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/cloudhypervisor/api"
	"vmfs/backends/hypervisor"
	"vmfs/internal/unixsock"
	"vmfs/internal/wait"
	"vmfs/vsock"
)

// start runs a fake and returns a client of it, and the directory with its sockets and events.
func start(t *testing.T, c Config) (client *api.Client, dir string) {
	dir, err := os.MkdirTemp("/tmp", "vmfs") // short enough for sockets
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	Start(t, c, filepath.Join(dir, "ch.sock"), filepath.Join(dir, "events.json"))
	client = api.New(filepath.Join(dir, "ch.sock"))
	t.Cleanup(func() { assert.NoError(t, client.Close()) })
	return client, dir
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// bootable is a configuration whose guest begins.
func bootable(t *testing.T, dir string) *api.VMConfig {
	kernel := filepath.Join(dir, "kernel")
	require.NoError(t, os.WriteFile(kernel, []byte("\x7fELF"), 0o600))
	return &api.VMConfig{
		CPUs:    api.CPUs{Boot: 1, Max: 1},
		Memory:  api.Memory{Size: 256 << 20, HotplugSize: 256 << 20, HotplugMethod: api.HotplugVirtioMem},
		Payload: api.Payload{Kernel: kernel},
		Serial:  api.Console{Mode: api.ConsoleSocket, Socket: filepath.Join(dir, "serial.sock")},
		Console: api.Console{Mode: api.ConsoleOff},
		Vsock:   &api.Vsock{CID: 3, Socket: filepath.Join(dir, "vsock.sock")},
		PVPanic: true,
	}
}

// eventNames are those in the event file; "" is what was cut.
func eventNames(t *testing.T, dir string) (names []string) {
	f, err := os.Open(filepath.Join(dir, "events.json"))
	require.NoError(t, err)
	defer f.Close()
	d := api.NewDecoder(f)
	for {
		ev, err := d.Next()
		switch {
		case errors.Is(err, io.EOF):
			return names
		case errors.Is(err, api.ErrCut):
			names = append(names, "")
		default:
			require.NoError(t, err)
			names = append(names, ev.Source+" "+ev.Name)
		}
	}
}

func TestGuest(t *testing.T) {
	c, dir := start(t, Config{})
	ctx := testContext(t)
	require.NoError(t, c.Create(ctx, bootable(t, dir)))
	require.NoError(t, c.Boot(ctx))

	serial, err := unixsock.Dial(ctx, filepath.Join(dir, "serial.sock"))
	require.NoError(t, err)
	defer serial.Close()
	lines := bufio.NewReader(serial)
	line, err := lines.ReadString('\n')
	require.NoError(t, err)
	assert.Equal(t, Ready+"\r\n", line)
	_, err = io.WriteString(serial, "hello\r")
	require.NoError(t, err)
	line, err = lines.ReadString('\n')
	require.NoError(t, err)
	assert.Equal(t, "hello\n", line)

	h := &vsock.Hybrid{Socket: filepath.Join(dir, "vsock.sock")}
	conn, err := h.DialVsock(ctx, EchoPort)
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "echo")
	require.NoError(t, err)
	require.NoError(t, conn.(interface{ CloseWrite() error }).CloseWrite())
	b, err := io.ReadAll(conn)
	require.NoError(t, err)
	assert.Equal(t, "echo", string(b))
	_, err = h.DialVsock(ctx, 9)
	require.ErrorIs(t, err, vsock.ErrRefused)

	socket := filepath.Join(dir, "ch.sock")
	require.NoError(t, Provoke(ctx, socket, Panics))
	require.NoError(t, Provoke(ctx, socket, Reboots))
	require.NoError(t, Provoke(ctx, socket, PowersOff))
	require.Error(t, Provoke(ctx, socket, PowersOff), "it is off")
	i, err := c.Info(ctx)
	require.NoError(t, err)
	assert.Equal(t, api.StateCreated, i.State)
	require.NoError(t, c.Boot(ctx))
	assert.Equal(t, []string{
		"vmm starting", "vm booting", "vm booted", "guest panic", "vm rebooting", "vm rebooted", "vm shutdown", "vm booting", "vm booted",
	}, eventNames(t, dir))
}

func TestFaults(t *testing.T) {
	ctx := testContext(t)
	exists := func(t *testing.T, c *api.Client) bool {
		_, err := c.Info(ctx)
		if errors.Is(err, api.ErrNoVM) {
			return false
		}
		require.NoError(t, err)
		return true
	}
	t.Run("a call is slow, and with it the others", func(t *testing.T) {
		c, _ := start(t, Config{Faults: []Fault{{Call: "vm.delete", Delay: 300 * time.Millisecond}}})
		first := make(chan error)
		begin := time.Now()
		go func() { first <- c.Delete(ctx) }()
		for time.Since(begin) < 200*time.Millisecond { // until it has begun, whatever that takes
			short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
			_, err := c.Ping(short)
			cancel()
			if err != nil {
				assert.ErrorIs(t, err, context.DeadlineExceeded)
			}
		}
		require.NoError(t, <-first)
		assert.GreaterOrEqual(t, time.Since(begin), 300*time.Millisecond)
		_, err := c.Ping(ctx)
		require.NoError(t, err)
	})
	t.Run("a call hangs", func(t *testing.T) {
		c, _ := start(t, Config{Faults: []Fault{{Call: "vm.delete", Kind: Hangs}}})
		for _, call := range []func(context.Context) error{c.Delete, c.Boot} {
			short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
			require.ErrorIs(t, call(short), context.DeadlineExceeded)
			cancel()
		}
	})
	for _, kind := range []FaultKind{DiesBefore, DiesAfter} {
		t.Run("it "+string(kind), func(t *testing.T) {
			c, dir := start(t, Config{Faults: []Fault{{Call: "vm.create", Nth: 2, Kind: kind}}})
			require.NoError(t, c.Create(ctx, bootable(t, dir)))
			require.NoError(t, c.Delete(ctx))
			require.ErrorIs(t, c.Create(ctx, bootable(t, dir)), hypervisor.ErrHypervisorNotRunning)
			assert.FileExists(t, filepath.Join(dir, "ch.sock"), "the socket of a VMM that was killed")
			_, err := c.Ping(ctx)
			require.ErrorIs(t, err, hypervisor.ErrHypervisorNotRunning)
		})
	}
	t.Run("a call fails and leaves its VM", func(t *testing.T) {
		c, dir := start(t, Config{Faults: []Fault{{Call: "vm.create", Nth: 1, Kind: Failed, Status: 500, Body: "plain text"}}})
		var refused *api.Error
		require.ErrorAs(t, c.Create(ctx, bootable(t, dir)), &refused)
		assert.Equal(t, &api.Error{Call: "vm.create", Status: 500, Words: []string{"plain text"}}, refused)
		assert.True(t, exists(t, c))
	})
	t.Run("a call is refused", func(t *testing.T) {
		c, dir := start(t, Config{Faults: []Fault{{Call: "vm.create", Kind: Refused, Status: 409, Body: `["a","b"]`}}})
		var refused *api.Error
		require.ErrorAs(t, c.Create(ctx, bootable(t, dir)), &refused)
		assert.Equal(t, &api.Error{Call: "vm.create", Status: 409, Words: []string{"a", "b"}}, refused)
		assert.False(t, exists(t, c))
	})
	t.Run("the socket goes", func(t *testing.T) {
		c, dir := start(t, Config{Faults: []Fault{{Call: "vm.delete", Kind: LosesSocket}}})
		require.NoError(t, c.Delete(ctx))
		assert.NoFileExists(t, filepath.Join(dir, "ch.sock"))
		_, err := c.Ping(ctx) // by the connection that is kept
		require.NoError(t, err)
		require.ErrorIs(t, api.New(filepath.Join(dir, "ch.sock")).Boot(ctx), hypervisor.ErrHypervisorNotRunning)
	})
	t.Run("events are lost and cut", func(t *testing.T) {
		c, dir := start(t, Config{LostEvents: []string{"vm booting"}, CutEvents: []string{"vm booted"}})
		require.NoError(t, c.Create(ctx, bootable(t, dir)))
		require.NoError(t, c.Boot(ctx))
		require.NoError(t, c.Pause(ctx))
		assert.Equal(t, []string{"vmm starting", "", "vm pausing", "vm paused"}, eventNames(t, dir))
	})
	t.Run("ten connections are all", func(t *testing.T) {
		c, dir := start(t, Config{})
		for range maxConns {
			conn, err := unixsock.Dial(ctx, filepath.Join(dir, "ch.sock"))
			require.NoError(t, err)
			defer conn.Close()
		}
		var refused *api.Error
		err := wait.Until(ctx, time.Millisecond, func() (bool, error) { return errors.As(c.Delete(ctx), &refused), nil })
		require.NoError(t, err)
		assert.Equal(t, []string{"Too many open connections"}, refused.Words)
	})
}

// The descriptors that come with a call are the VM's until it is deleted.
func TestDescriptors(t *testing.T) {
	c, dir := start(t, Config{})
	ctx := testContext(t)
	require.NoError(t, c.Create(ctx, bootable(t, dir)))
	ours, tap := func() (a, b *os.File) {
		fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
		require.NoError(t, err)
		return os.NewFile(uintptr(fds[0]), "a"), os.NewFile(uintptr(fds[1]), "b")
	}()
	defer ours.Close()
	require.NoError(t, c.AddNet(ctx, api.Net{ID: "net0", MAC: "02:00:00:00:00:01"}, tap))
	require.Error(t, c.AddNet(ctx, api.Net{ID: "net1", NumQueues: 4}, tap), "queues and files that do not fit")
	require.NoError(t, tap.Close())
	i, err := c.Info(ctx)
	require.NoError(t, err)
	assert.Equal(t, []api.Net{{ID: "net0", MAC: "02:00:00:00:00:01", NumQueues: 2}}, i.Config.Nets)
	_, err = ours.WriteString("x")
	require.NoError(t, err, "somebody has the other end")
	require.NoError(t, c.Delete(ctx))
	_, err = ours.WriteString("x")
	require.ErrorIs(t, err, syscall.EPIPE, "nobody has the other end")
}

// As a program it is a process of its own, with a version that can be too old.
func TestProgram(t *testing.T) {
	ctx := testContext(t)
	out, err := exec.CommandContext(ctx, Program(t, Config{Version: "v52.0"}), "--version").Output()
	require.NoError(t, err)
	assert.Equal(t, "cloud-hypervisor v52.0\nMigration Protocol Versions: 0\n", string(out))

	dir, err := os.MkdirTemp("/tmp", "vmfs")
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	socket, err := unixsock.Bind(ctx, filepath.Join(dir, "ch.sock"))
	require.NoError(t, err)
	cmd := exec.CommandContext(ctx, Program(t, Config{Faults: []Fault{{Call: "vm.boot", Kind: DiesBefore}}}),
		"--api-socket", "fd=3", "--event-monitor", "path="+filepath.Join(dir, "events.json"), "--no-shutdown")
	cmd.ExtraFiles = []*os.File{socket}
	require.NoError(t, cmd.Start())
	require.NoError(t, socket.Close())
	c := api.New(filepath.Join(dir, "ch.sock"))
	defer c.Close()
	pong, err := c.Ping(ctx)
	require.NoError(t, err)
	assert.Equal(t, cmd.Process.Pid, pong.PID)
	require.NoError(t, c.Create(ctx, bootable(t, dir)))
	require.ErrorIs(t, c.Boot(ctx), hypervisor.ErrHypervisorNotRunning)
	var exit *exec.ExitError
	require.ErrorAs(t, cmd.Wait(), &exit)
	assert.Equal(t, syscall.SIGKILL, exit.Sys().(syscall.WaitStatus).Signal())
	assert.FileExists(t, filepath.Join(dir, "serial.sock"), "what is left of a VMM that was killed")

	out, err = exec.CommandContext(ctx, Program(t, Config{}), "--unknown").CombinedOutput()
	require.Error(t, err)
	assert.True(t, strings.Contains(string(out), "unknown"), string(out))
}
