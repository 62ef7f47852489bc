package qemu_test

import (
	"fmt"
	"io"
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

// readyText is what the guest prints when it is up.
const readyText = "vmfs guest ready"

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
		Ready:    hypervisortest.ReadyLine(readyText),
		Timeout:  60 * time.Second,
		Deadline: 500 * time.Millisecond,
		Echo: func(token string) (string, string) {
			return "echo " + token + "\r", "\n" + token
		},
		Remember: func(token string) (string, string) {
			return "T=" + token + "; echo kept$T\r", "\nkept" + token
		},
		Recall: func(token string) (string, string) {
			return "echo $T\r", "\n" + token
		},
		DiskSize: func(i int, bytes int64) (string, string) {
			return fmt.Sprintf("echo $(cat /sys/block/vd%c/size) sectors\r", 'a'+i), fmt.Sprintf("\n%d sectors", bytes/512)
		},
		NMI:      "NMI received for unknown reason",
		EchoPort: 7, RefusedError: vsock.ErrRefused, PortError: vsock.ErrPort,
		Stops: []hypervisortest.Stop{
			{
				Name: "guest powers off", Provoke: typing("poweroff\r"),
				Kind: hypervisor.EventShutdown, State: hypervisor.StateShutdown, Reason: "guest-shutdown",
			},
			{
				Name: "guest panics", Provoke: typing("echo c > /proc/sysrq-trigger\r"),
				Kind: hypervisor.EventPanicked, State: hypervisor.StatePaused, Reason: "guest-panicked",
			},
		},
	})
}

// typing types text at the console.
func typing(text string) func(testing.TB, *hypervisortest.VM) {
	return func(t testing.TB, vm *hypervisortest.VM) {
		conn, err := vm.Handle.(hypervisor.Console).OpenConsole(t.Context())
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })           // not at once: QEMU may not have read it yet
		go func() { _, _ = io.Copy(io.Discard, conn) }() // a guest waits for its console's reader
		_, err = io.WriteString(conn, text)
		require.NoError(t, err)
	}
}
