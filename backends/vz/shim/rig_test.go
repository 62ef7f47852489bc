package shim_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vmfs/backends/vz/fakeengine"
	"vmfs/backends/vz/shim"
	"vmfs/backends/vz/shimapi"
	"vmfs/backends/vz/shimconfig"
	"vmfs/internal/unixsock"
)

// patience bounds what is to come.
const patience = time.Minute

// A rig is a shim that runs in this process.
type rig struct {
	t      *testing.T
	dir    string
	config *shimconfig.Config
	client *shimapi.Client
	killed chan int      // has the status of a shim that was killed
	done   chan struct{} // closed when Run has returned; err is set then
	err    error
}

// boot runs a shim, of which nothing is asked yet. change changes what it is run with.
func boot(t *testing.T, change ...func(*shim.Config)) *rig {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "vmfs") // short enough for sockets
	require.NoError(t, err)
	kernel := filepath.Join(dir, "vmlinuz")
	require.NoError(t, os.WriteFile(kernel, nil, 0o600))
	r := &rig{t: t, dir: dir, killed: make(chan int, 1), done: make(chan struct{}), config: &shimconfig.Config{
		Name: "web", UUID: "6ba7b810-9dad-11d1-80b4-00c04fd430c8", CPUs: 1, Memory: 64 << 20, Target: 32 << 20,
		Boot:    shimconfig.Boot{Linux: &shimconfig.Linux{Kernel: kernel}},
		Nets:    []shimconfig.Net{{Kind: shimconfig.NetNAT, MAC: "52:54:00:00:00:01"}},
		Vsock:   &shimconfig.Vsock{Socket: filepath.Join(dir, "vsock.sock")},
		Console: shimconfig.Console{Socket: filepath.Join(dir, "console.sock"), Log: filepath.Join(dir, "console.log"), LogMax: 1 << 20},
	}}
	l, err := unixsock.Listen(t.Context(), r.path("vz.sock"))
	require.NoError(t, err)
	c := shim.Config{
		Engine: fakeengine.New(fakeengine.Config{Lag: time.Millisecond}), VM: r.config, Control: l.UnixListener,
		Log:  slog.New(slog.NewTextHandler(t.Output(), nil)),
		Exit: func(status int) { r.killed <- status },
	}
	for _, f := range change {
		f(&c)
	}
	r.client = r.connect() // while the shim is sure not to have ended
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(r.done)
		r.err = shim.Run(ctx, c)
	}()
	t.Cleanup(func() {
		r.clear()
		cancel()
		select {
		case <-r.done:
		case <-time.After(patience):
			t.Error("the shim does not end")
		}
		_ = r.client.Close()
		_ = os.RemoveAll(dir)
	})
	return r
}

func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

func (r *rig) connect() *shimapi.Client {
	r.t.Helper()
	c, err := shimapi.Dial(r.t.Context(), r.path("vz.sock"))
	require.NoError(r.t, err)
	r.t.Cleanup(func() { _ = c.Close() })
	return c
}

// ask asks for something that is to succeed.
func (r *rig) ask(m shimapi.Method, params, result any) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	require.NoError(r.t, r.client.Call(ctx, m, params, result), string(m))
}

func (r *rig) info() (i shimapi.Info) {
	r.t.Helper()
	r.ask(shimapi.MethodInfo, nil, &i)
	return i
}

// fault makes a call of the engine's hang, or fail with a text.
func (r *rig) fault(c fakeengine.Call, text string) {
	r.t.Helper()
	require.NoError(r.t, os.WriteFile(r.path(fakeengine.FaultFile(c)), []byte(text), 0o600))
}

// clear takes the faults away.
func (r *rig) clear() {
	faults, _ := filepath.Glob(r.path("fault.*"))
	for _, path := range faults {
		_ = os.Remove(path)
	}
}

// raw is a connection that nothing is said on yet.
func (r *rig) raw() *net.UnixConn {
	r.t.Helper()
	c, err := unixsock.Dial(r.t.Context(), r.path("vz.sock"))
	require.NoError(r.t, err)
	r.t.Cleanup(func() { _ = c.Close() })
	require.NoError(r.t, c.SetDeadline(time.Now().Add(patience)))
	return c
}

// tail is what is read to the end.
func tail(t *testing.T, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	return string(b)
}

// until takes a client's events until one of a kind.
func until(t *testing.T, c *shimapi.Client, kind shimapi.EventKind) (events []shimapi.Event) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		e, err := c.NextEvent(ctx)
		require.NoError(t, err, "after %v", events)
		if events = append(events, e); e.Kind == kind {
			return events
		}
	}
}

type shimConfig = shim.Config

// hang has a call hang from before the shim begins.
func hang(t *testing.T, c *shimConfig, call fakeengine.Call) { fail(t, c, call, "") }

// fail has a call fail from before the shim begins.
func fail(t *testing.T, c *shimConfig, call fakeengine.Call, text string) {
	t.Helper()
	path := filepath.Join(filepath.Dir(c.VM.Console.Socket), fakeengine.FaultFile(call))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
}

// tapped is an engine that lets a test have its machine.
type tapped struct {
	shim.Engine
	made chan *fakeengine.Machine
}

func (e tapped) New(c *shimconfig.Config, files shim.Files) (shim.Machine, error) {
	m, err := e.Engine.New(c, files)
	if err == nil {
		e.made <- m.(*fakeengine.Machine)
	}
	return m, err
}
