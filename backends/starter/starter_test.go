package starter_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/extras"
	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
	"vmfs/backends/rundir"
	"vmfs/backends/starter"
)

// A vm is a handle on nothing.
type vm struct {
	hypervisor.Hypervisor
	socket string
	closed *bool
}

func (v *vm) PID() int     { return 7 }
func (v *vm) Close() error { *v.closed = true; return nil }

// A back is a back end whose StartVM and so on give f what they were asked.
func back(t *testing.T, c starter.Config[*vm, starter.Program]) *starter.Starter[*vm, starter.Program] {
	t.Helper()
	c.Type, c.VMM, c.Socket = "none", "Nobody's VMM", "none.sock"
	c.Log = slog.New(slog.DiscardHandler)
	c.Look = func(name string) (string, error) {
		if name == "" {
			name = "no-such-vmm"
		}
		return process.Look(name)
	}
	c.Probe = func(ctx context.Context, path string) (starter.Program, error) {
		said, err := process.Output(ctx, path, "--version")
		return starter.Program{Path: path, Version: starter.VersionIn(said, "Nobody ")}, err
	}
	return starter.New(c)
}

// program makes one that says a version.
func program(t *testing.T, version string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "vmm")
	require.NoError(t, os.WriteFile(path, fmt.Appendf(nil, "#!/bin/sh\necho 'Nobody %s (Debian)'; echo more\n", version), 0o700))
	return path
}

func paths(path string) *hypervisor.Paths {
	return &hypervisor.Paths{Binaries: map[hypervisor.Type]string{"none": path}}
}

func TestCalls(t *testing.T) {
	var asked starter.Request
	var over *hypervisor.VMConfig
	fails := error(nil)
	made := func(r starter.Request) (*vm, error) {
		asked = r
		if fails != nil {
			return nil, fails
		}
		return &vm{socket: r.SocketPath}, nil
	}
	f := back(t, starter.Config[*vm, starter.Program]{
		Settings: extras.Table{"none.x": {"1", "2"}},
		Find:     func(_ context.Context, socket string) (*vm, error) { return made(starter.Request{SocketPath: socket}) },
		Start: func(_ context.Context, r starter.Request, _ hypervisor.VMConfig) (*vm, error) {
			return made(r)
		},
		Restore: func(_ context.Context, r starter.Request, _ string, o *hypervisor.VMConfig) (*vm, error) {
			over = o
			return made(r)
		},
	})
	ctx := t.Context()
	const socket = "/run/vms/web/none.sock"
	for _, c := range []struct {
		call func() (int, hypervisor.Hypervisor, error)
		over bool
		says string
	}{
		{func() (int, hypervisor.Hypervisor, error) {
			return f.StartVM(ctx, paths("/p"), "1.2", socket, hypervisor.VMConfig{Name: "own"})
		}, false, "none: start own: broken"},
		{func() (int, hypervisor.Hypervisor, error) {
			return f.StartVM(ctx, paths("/p"), "1.2", socket, hypervisor.VMConfig{})
		}, false, "none: start web: broken"},
		{func() (int, hypervisor.Hypervisor, error) { return f.RestoreVM(ctx, paths("/p"), "1.2", socket, "/s") }, false, "none: restore web: broken"},
		{func() (int, hypervisor.Hypervisor, error) {
			return f.RestoreVMWith(ctx, paths("/p"), "1.2", socket, "/s", hypervisor.VMConfig{})
		}, true, "none: restore web: broken"},
	} {
		fails, over = nil, nil
		pid, hv, err := c.call()
		require.NoError(t, err)
		assert.Equal(t, 7, pid)
		assert.Equal(t, socket, hv.(*vm).socket)
		assert.Equal(t, starter.Request{Paths: paths("/p"), Version: "1.2", SocketPath: socket}, asked)
		assert.Equal(t, c.over, over != nil)
		fails = errors.New("broken")
		pid, hv, err = c.call()
		require.ErrorIs(t, err, fails)
		require.EqualError(t, err, c.says)
		assert.Zero(t, pid)
		assert.Nil(t, hv)
	}
	f.RegisterAs(f0{f})
	assert.Equal(t, "none.sock", hypervisor.SocketNameForType("none"))
	hv, err := hypervisor.NewClient("none", socket)
	require.EqualError(t, err, "none: open "+socket+": broken")
	assert.Nil(t, hv)
	fails = nil
	hv, err = hypervisor.NewClient("none", socket)
	require.NoError(t, err)
	assert.Equal(t, socket, hv.(*vm).socket)

	require.NoError(t, f.CheckExtra("none.x", "1"))
	err = f.CheckExtra("none.x", "3")
	require.ErrorIs(t, err, hypervisor.ErrInvalid)
	assert.ErrorContains(t, err, "none: none.x=3")
}

// f0 is a back end's own Starter.
type f0 struct {
	*starter.Starter[*vm, starter.Program]
}

// TestPrograms goes from the most special place to the last.
func TestPrograms(t *testing.T) {
	set, flag, own := program(t, "1.2.22"), program(t, "2.0"), program(t, "3.0")
	f := back(t, starter.Config[*vm, starter.Program]{Binary: set})
	for path, p := range map[string]*hypervisor.Paths{set: nil, flag: paths(flag)} {
		got, err := f.GetBinaryPath(p, "")
		require.NoError(t, err)
		assert.Equal(t, path, got)
	}
	prog, err := f.Program(t.Context(), starter.Request{Paths: paths(flag)}, hypervisor.VMConfig{Extras: map[string]string{"none.binary": own}})
	require.NoError(t, err)
	assert.Equal(t, starter.Program{Path: own, Version: "3.0"}, prog)

	version, err := f.GetVersion(nil)
	require.NoError(t, err)
	assert.Equal(t, "1.2.22", version)
	for want, ok := range map[string]bool{"1.2": true, "1.2.22": true, "v1": true, "1.2.2": false, "2": false} {
		got, err := f.GetBinaryPath(nil, want)
		if ok {
			require.NoError(t, err)
			assert.Equal(t, set, got)
			continue
		}
		require.ErrorIs(t, err, hypervisor.ErrInvalid)
		assert.ErrorContains(t, err, "none: there is no Nobody's VMM "+want+" here, only 1.2.22")
		assert.Empty(t, got)
	}
	none := back(t, starter.Config[*vm, starter.Program]{})
	_, err = none.GetBinaryPath(nil, "")
	require.ErrorIs(t, err, exec.ErrNotFound)
	_, err = none.GetVersion(nil)
	require.ErrorIs(t, err, exec.ErrNotFound)
}

// TestAbandon is a start whose VMM ended by itself.
func TestAbandon(t *testing.T) {
	dir := t.TempDir()
	run, err := (&rundir.Kind{Record: "r.json"}).Of(filepath.Join(dir, "run", "none.sock"))
	require.NoError(t, err)
	require.NoError(t, run.Prepare())
	require.NoError(t, os.WriteFile(run.Record(), nil, 0o600))
	c, err := process.Start(t.Context(), process.Command{Path: "/bin/sh", Args: []string{"-c", "echo no disk; exit 3"}, Log: filepath.Join(dir, "log")})
	require.NoError(t, err)
	closed := false
	f := back(t, starter.Config[*vm, starter.Program]{Plain: func(said string) string { return "[" + said + "]" }})
	err = f.Abandon(t.Context(), starter.Made{Dir: run, Child: c, Handle: &vm{closed: &closed}, Ending: true}, errors.New("it hung up"))
	require.EqualError(t, err, "Nobody's VMM ended (exit status 3): [no disk]")
	assert.True(t, closed)
	assert.NoFileExists(t, run.Record())
	broken := errors.New("broken")
	require.Equal(t, broken, f.Abandon(t.Context(), starter.Made{Dir: run}, broken), "before there is anything")
}
