package cloudhypervisor_test

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vmfs/backends/cloudhypervisor"
	"vmfs/backends/cloudhypervisor/chtest"
	"vmfs/backends/hypervisor"
	"vmfs/backends/hypervisor/hypervisortest"
	"vmfs/guest"
	"vmfs/guest/guesttest"
	"vmfs/vsock"
)

// newStarter makes a Starter of a program and registers it; "" is the one of this machine.
func newStarter(t testing.TB, program string) *cloudhypervisor.Starter {
	t.Helper()
	s := cloudhypervisor.New(cloudhypervisor.Config{Binary: program, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	s.Register()
	return s
}

// realStarter is newStarter of the real program, where that can run VMs.
func realStarter(t testing.TB) *cloudhypervisor.Starter {
	t.Helper()
	s := newStarter(t, "")
	chtest.NeedReal(t, func() (string, error) { return s.GetVersion(nil) })
	return s
}

// TestRealIsNeeded: a Cloud Hypervisor that is named and is none is no reason to skip.
func TestRealIsNeeded(t *testing.T) { chtest.CheckNeed(t, "TestSuite") }

// TestSuite is the contract on the real one.
func TestSuite(t *testing.T) {
	s := realStarter(t)
	kernel, initrd := guesttest.Fast(t, guest.Options{})
	hypervisortest.Run(t, hypervisortest.Backend{
		Type:    hypervisor.TypeCloudHypervisor,
		Starter: s,
		Config: func(t testing.TB, dir string) hypervisor.VMConfig {
			return hypervisor.VMConfig{
				VsockCID: 3, VsockSocket: filepath.Join(dir, "vsock.sock"), MemoryBytes: 256 << 20, HotplugBytes: 256 << 20,
				KernelPath: kernel, InitrdPath: initrd, KernelArgs: "quiet no_timer_check",
			}
		},
		Timeout:      180 * time.Second,
		Deadline:     time.Second,
		Prompt:       10 * time.Second,
		RefusedError: vsock.ErrRefused, PortError: vsock.ErrPort,
	}.WithGuest())
}

// TestSuiteOnFake is the contract on machines without KVM.
func TestSuiteOnFake(t *testing.T) {
	t.Parallel() // with the other fakes, behind the real one
	kernel := filepath.Join(t.TempDir(), "vmlinuz")
	require.NoError(t, os.WriteFile(kernel, nil, 0o600))
	hypervisortest.Run(t, hypervisortest.Backend{
		Type:    hypervisor.TypeCloudHypervisor,
		Starter: newStarter(t, chtest.Program(t, chtest.Config{})),
		Config: func(t testing.TB, dir string) hypervisor.VMConfig {
			return hypervisor.VMConfig{
				VsockCID: 3, VsockSocket: filepath.Join(dir, "vsock.sock"), MemoryBytes: 256 << 20, HotplugBytes: 256 << 20, KernelPath: kernel,
			}
		},
		Ready: hypervisortest.ReadyLine(chtest.Ready),
		DiskSize: func(i int, bytes int64) (string, string) {
			return fmt.Sprintf("size disk%d\r", i), fmt.Sprintf("%d bytes", bytes)
		},
		NMI:      "NMI received",
		EchoPort: chtest.EchoPort, RefusedError: vsock.ErrRefused, PortError: vsock.ErrPort,
		Stops: hypervisortest.Stops(provoking(chtest.PowersOff), provoking(chtest.Panics)),
	})
}

func provoking(a chtest.Action) func(testing.TB, *hypervisortest.VM) {
	return func(t testing.TB, vm *hypervisortest.VM) {
		require.NoError(t, chtest.Provoke(t.Context(), vm.SocketPath, a))
	}
}
