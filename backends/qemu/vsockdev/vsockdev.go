// Package vsockdev runs the vsock devices of QEMU's VMs (package vsock/vhostuser), each
// in a process of its own, which outlives the server as the VM does: it starts them,
// finds those that an earlier server started, and ends them.
//
// The process is this very program, started again: an init function of this package
// takes over then (see process.Main), so that every program that links the package can
// start devices, tests included.
//
// The package imports the standard library, backends/hypervisor, backends/process,
// vsock and vsock/vhostuser.
package vsockdev

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"time"

	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
	"vmfs/vsock"
	"vmfs/vsock/vhostuser"
)

// Supported is whether devices run on this system.
const Supported = runtime.GOOS == "linux"

// name is the first argument of a device's process.
const name = "vmfs-vsock-device"

func init() { process.Main(name, vhostuser.Command) }

// A Config is what the device of one VM needs to know.
type Config struct {
	// QEMUSocket is where QEMU listens for the device (vhost-user): the device
	// connects, and again whenever it was started anew. It ends when QEMU has closed
	// the connection and listens no more.
	QEMUSocket string
	// Socket is the device's own, on which the host's programs dial the guest.
	Socket string
	// CID is the guest's context ID.
	CID int64
	// Log is the file that the device's words are appended to.
	Log string
}

// A Device is a device's process. It can be waited for and signalled.
type Device struct {
	process.Process
	// Adopted tells whether it was found running instead of started.
	Adopted bool
}

// Start starts a device. It does not wait until that has connected to QEMU.
func Start(ctx context.Context, c Config) (*Device, error) {
	if !Supported {
		return nil, fmt.Errorf("the device runs on Linux, this is %s: %w", runtime.GOOS, hypervisor.ErrNotSupported)
	}
	child, err := process.Start(ctx, process.Command{
		Name: name, Log: c.Log,
		Args: []string{"--qemu", c.QEMUSocket, "--socket", c.Socket, "--cid", strconv.FormatInt(c.CID, 10)},
	})
	if err != nil {
		return nil, err
	}
	return &Device{Process: child.Process}, nil
}

// FindOrStart returns the device that runs already, or starts one. A device whose
// socket somebody has removed is of no use any more, and is ended.
func FindOrStart(ctx context.Context, c Config) (*Device, error) {
	_, err := vhostuser.GetStatus(ctx, c.Socket)
	switch {
	case errors.Is(err, vsock.ErrUnavailable):
		if err := End(ctx, c.Socket); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, fmt.Errorf("a process serves %s and does not answer: %w", c.Socket, err)
	default:
		p, err := holder(ctx, c.Socket)
		if err != nil {
			return nil, err
		}
		if !p.IsZero() {
			return &Device{Process: p, Adopted: true}, nil
		}
	}
	return Start(ctx, c)
}

// End ends the device that has a socket, whether or not it can be reached there, and
// waits for it. Where there is none it returns nil.
func End(ctx context.Context, socket string) error {
	p, err := holder(ctx, socket)
	if err != nil {
		return err
	}
	return (&Device{Process: p}).End(ctx)
}

// holder returns the process that is the device, the zero one if there is none: by
// the lock that it holds, and not by what it says of its pid.
func holder(ctx context.Context, socket string) (process.Process, error) {
	pid, err := vhostuser.Holder(ctx, socket)
	if err != nil || pid == 0 {
		return process.Process{}, err
	}
	p, err := process.Find(pid)
	if errors.Is(err, process.ErrEnded) {
		return process.Process{}, nil // it did so just now
	}
	return p, err
}

// patience is how long a device may take to end in good order.
const patience = time.Second

// End ends the device.
func (d *Device) End(ctx context.Context) error {
	if err := d.Process.End(ctx, patience); err != nil {
		return fmt.Errorf("vsock device: %w", err)
	}
	return nil
}
