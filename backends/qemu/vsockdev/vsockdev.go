// Package vsockdev runs the vsock devices of QEMU's VMs (package vsock/vhostuser), each
// in a process of its own beside its QEMU (see package companion): an init function of
// this package takes over there, so that every program that links the package can
// start devices, tests included.
//
// The package imports the standard library, backends/companion, backends/hypervisor,
// backends/process, vsock and vsock/vhostuser.
package vsockdev

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"

	"vmfs/backends/companion"
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

func (c Config) spec() companion.Spec {
	return companion.Spec{
		Name: name, Log: c.Log,
		Args:   []string{"--qemu", c.QEMUSocket, "--socket", c.Socket, "--cid", strconv.FormatInt(c.CID, 10)},
		Holder: func(ctx context.Context) (int, error) { return vhostuser.Holder(ctx, c.Socket) },
		Served: func(ctx context.Context) (bool, error) {
			_, err := vhostuser.GetStatus(ctx, c.Socket)
			switch {
			case errors.Is(err, vsock.ErrUnavailable):
				return false, nil
			case err != nil:
				return false, fmt.Errorf("a process serves %s and does not answer: %w", c.Socket, err)
			}
			return true, nil
		},
	}
}

// Start starts a device. It does not wait until that has connected to QEMU.
func Start(ctx context.Context, c Config) (*companion.Companion, error) {
	if !Supported {
		return nil, fmt.Errorf("the device runs on Linux, this is %s: %w", runtime.GOOS, hypervisor.ErrNotSupported)
	}
	return c.spec().Start(ctx)
}

// FindOrStart returns the device that runs already, or starts one.
func FindOrStart(ctx context.Context, c Config) (*companion.Companion, error) {
	if !Supported {
		return Start(ctx, c)
	}
	return c.spec().FindOrStart(ctx)
}

// End ends the device that has a socket, whether or not it can be reached there, and
// waits for it. Where there is none it returns nil.
func End(ctx context.Context, socket string) error {
	if err := (Config{Socket: socket}).spec().End(ctx); err != nil {
		return fmt.Errorf("vsock device: %w", err)
	}
	return nil
}
