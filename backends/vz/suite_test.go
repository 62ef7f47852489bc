package vz_test

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/backends/hypervisor/hypervisortest"
	"vmfs/backends/sim"
	"vmfs/backends/vz"
	"vmfs/backends/vz/fakeengine"
	"vmfs/backends/vz/shim"
	"vmfs/vsock"
)

// TestMain is the shim, too: a Starter starts this program again for one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == shim.Name {
		os.Exit(shim.Main(os.Args[2:], fakeengine.New(fakeengine.Config{
			Lag: 2 * time.Millisecond, BootTime: 5 * time.Millisecond, PowerOffTime: 5 * time.Millisecond,
		})))
	}
	if dir := os.Getenv(dyingServer); dir != "" {
		dieInAStart(dir)
		return
	}
	os.Exit(m.Run())
}

// newStarter makes a Starter and registers it.
func newStarter(t testing.TB) *vz.Starter {
	t.Helper()
	s := vz.New(vz.Config{Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	s.Register()
	return s
}

func kernel(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "vmlinuz")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	return path
}

// TestSuite is the contract, over the shim and the fake engine.
func TestSuite(t *testing.T) {
	kernel := kernel(t)
	hypervisortest.Run(t, hypervisortest.Backend{
		Type:    hypervisor.TypeVZ,
		Starter: newStarter(t),
		Config: func(t testing.TB, dir string) hypervisor.VMConfig {
			return hypervisor.VMConfig{
				VsockCID: 3, VsockSocket: filepath.Join(dir, "vsock.sock"), MemoryBytes: 256 << 20, HotplugBytes: 256 << 20,
				KernelPath: kernel,
			}
		},
		Ready:   hypervisortest.ReadyLine(fakeengine.ReadyLine),
		Timeout: time.Minute,
		Prompt:  20 * time.Second,
		Echo: func(token string) (string, string) {
			return "echo " + token + "\r", "\r\n" + token + "\r\n"
		},
		Remember: func(token string) (string, string) { return "note " + token + "\r", "\r\nsim> " },
		Recall:   func(token string) (string, string) { return "note\r", "\r\n" + token + "\r\n" },
		EchoPort: sim.PortEcho, RefusedError: vsock.ErrRefused, PortError: vsock.ErrPort,
		Stops: []hypervisortest.Stop{
			{
				Name: "guest powers off", Provoke: typing("poweroff\r"),
				Kind: hypervisor.EventShutdown, State: hypervisor.StateShutdown, Reason: "guest-shutdown",
			},
		},
	})
}

// typing types text at the console.
func typing(text string) func(testing.TB, *hypervisortest.VM) {
	return func(t testing.TB, vm *hypervisortest.VM) {
		conn, err := vm.Handle.(hypervisor.Console).OpenConsole(t.Context())
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })           // not at once: the shim may not have read it yet
		go func() { _, _ = io.Copy(io.Discard, conn) }() // ends with the connection
		_, err = io.WriteString(conn, text)
		require.NoError(t, err)
	}
}
