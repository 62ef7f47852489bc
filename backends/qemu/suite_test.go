package qemu_test

import (
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/backends/hypervisor/hypervisortest"
	"vmfs/backends/qemu"
	"vmfs/guest"
	"vmfs/guest/guesttest"
	"vmfs/vsock"
)

// newStarter makes a Starter and registers it, where QEMU is installed.
func newStarter(t testing.TB) *qemu.Starter {
	t.Helper()
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		guesttest.Missing(t, "QEMU is missing: apt-get install qemu-system-x86")
	}
	s := qemu.New(qemu.Config{Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	s.Register()
	return s
}

func TestSuite(t *testing.T) {
	t.Parallel() // with the other tests that wait for a guest
	s := newStarter(t)
	kernel, initrd := guesttest.Fast(t, guest.Options{})
	cid := int64(2)
	var extras map[string]string
	if os.Getenv("VMFS_TESTHOST") != "" { // it is there to see KVM
		extras = map[string]string{"qemu.accel": "kvm"}
	}
	hypervisortest.Run(t, hypervisortest.Backend{
		Type:    hypervisor.TypeQEMU,
		Starter: s,
		Config: func(t testing.TB, dir string) hypervisor.VMConfig {
			cid++
			// In a directory of its own the socket is one that was asked for, also where the
			// host's kernel has a device.
			socket := filepath.Join(dir, "v", "sock")
			require.NoError(t, os.Mkdir(filepath.Dir(socket), 0o700))
			return hypervisor.VMConfig{
				VsockCID: cid, VsockSocket: socket,
				MemoryBytes: 256 << 20, HotplugBytes: 256 << 20,
				KernelPath: kernel, InitrdPath: initrd, KernelArgs: "quiet no_timer_check",
				Extras: extras,
			}
		},
		Timeout:      60 * time.Second,
		Deadline:     500 * time.Millisecond,
		RefusedError: vsock.ErrRefused, PortError: vsock.ErrPort,
	}.WithGuest())
}
