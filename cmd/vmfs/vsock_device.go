package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
	"vmfs/backends/qemu"
	"vmfs/vsock"
	"vmfs/vsock/vhostuser"
)

// newVsockDevice is the process that carries a QEMU VM's vsock streams. The server
// starts it; it is no command for people.
func newVsockDevice() *cobra.Command {
	var cfg vhostuser.Config
	cmd := &cobra.Command{
		Use:    "vsock-device --qemu SOCKET --socket SOCKET --cid N",
		Short:  "Be the vsock device of one VM",
		Hidden: true,
		Long: `Be the virtio-vsock device of one VM of QEMU, in a process of its own that ends
with the VM. The server starts it for VMs with vsock.cid and restarts it when it
dies. Programs reach the guest at its socket as with other hypervisors: they
write CONNECT and a port, and read OK.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, os.Interrupt)
			defer stop()
			cfg.Logger = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)).With("process", "vsock-device", "pid", os.Getpid())
			return vhostuser.Main(ctx, cfg)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.QEMUSocket, "qemu", "", "`socket` of QEMU's chardev")
	f.StringVar(&cfg.HostSocket, "socket", "", "`socket` to serve the host's programs at")
	f.Int64Var(&cfg.CID, "cid", 0, "the guest's context `ID`")
	return cmd
}

// dialGuest makes the dialers of QEMU's guests.
func dialGuest(socket string, cid int64) hypervisor.VsockDialer {
	if qemu.KernelVsock(socket) {
		return &vsock.Kernel{CID: cid}
	}
	return &vsock.Hybrid{Socket: socket}
}

var (
	_ hypervisor.VsockListener = (*vsock.Kernel)(nil)
	_ hypervisor.VsockListener = (*vsock.Hybrid)(nil)
)

// vsockDevice is a device process that this server started or found.
type vsockDevice struct {
	process.Process
	adopted bool
}

// startVsockDevice starts `vmfs vsock-device` in a session of its own, so that it
// outlives this server as the VM does, or finds the one that runs.
func startVsockDevice(ctx context.Context, d qemu.VsockDevice) (io.Closer, error) {
	if runtime.GOOS != "linux" {
		return nil, fmt.Errorf("the device runs on Linux, this is %s: %w", runtime.GOOS, hypervisor.ErrNotSupported)
	}
	if d.Running {
		if found, err := findVsockDevice(ctx, d); found != nil || err != nil {
			return found, err
		}
	}
	log, err := os.OpenFile(d.Log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	defer log.Close()
	cmd := exec.Command("/proc/self/exe", "vsock-device", "--qemu", d.QEMUSocket, "--socket", d.Socket, "--cid", strconv.FormatInt(d.CID, 10))
	cmd.Args[0] = "vmfs"
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log // files: no goroutine copies them
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p, err := process.Find(cmd.Process.Pid)
	go func() { _ = cmd.Wait() }() // ends with the process: somebody has to wait for it
	if err != nil {
		return nil, fmt.Errorf("it ended as soon as it had started; %s has its words: %w", d.Log, err)
	}
	return &vsockDevice{Process: p}, nil
}

// findVsockDevice returns the device that runs already, nil if there is none. One
// whose socket somebody has removed is of no use any more, and is ended.
func findVsockDevice(ctx context.Context, d qemu.VsockDevice) (io.Closer, error) {
	st, err := vhostuser.GetStatus(ctx, d.Socket)
	if errors.Is(err, vsock.ErrUnavailable) {
		return nil, endVsockDevice(ctx, d)
	}
	if err != nil {
		return nil, fmt.Errorf("a process serves %s and does not answer: %w", d.Socket, err)
	}
	p, err := process.Find(st.PID)
	if errors.Is(err, process.ErrEnded) {
		return nil, nil // it did so just now
	}
	if err != nil {
		return nil, err
	}
	return &vsockDevice{Process: p, adopted: true}, nil
}

// endVsockDevice ends the device that there is, whether or not it can be reached.
func endVsockDevice(ctx context.Context, d qemu.VsockDevice) error {
	pid, err := vhostuser.Holder(ctx, d.Socket)
	if err != nil || pid == 0 {
		return err
	}
	p, err := process.Find(pid)
	if err != nil && !errors.Is(err, process.ErrEnded) {
		return err
	}
	return (&vsockDevice{Process: p}).Close() // which is nil for one that has ended just now
}

// PID is the device's process.
func (d *vsockDevice) PID() int { return d.Process.PID }

// Adopted tells whether it was found running.
func (d *vsockDevice) Adopted() bool { return d.adopted }

// closeTimeout is how long a device may take to end in good order, and then to
// die.
const closeTimeout = time.Second

// Close ends the device.
func (d *vsockDevice) Close() error {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if err := d.Signal(sig); err != nil {
			if errors.Is(err, process.ErrEnded) {
				return nil
			}
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		err := d.Wait(ctx)
		cancel()
		if err == nil {
			return nil
		}
	}
	return fmt.Errorf("vsock device: process %d does not end", d.PID())
}
