package qemu

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"vmfs/backends/hypervisor"
)

// openTap opens an existing tap device for QEMU. It never makes one: a name that
// is mistyped is an error.
func openTap(name string) (*os.File, error) {
	if name == "" || len(name) >= unix.IFNAMSIZ || strings.ContainsAny(name, "/\x00") || name == "." || name == ".." {
		return nil, fmt.Errorf("tap %q: no name of a network device: %w", name, hypervisor.ErrInvalid)
	}
	if _, err := os.Stat("/sys/class/net/" + name + "/tun_flags"); err != nil {
		if _, err := os.Stat("/sys/class/net/" + name); err == nil {
			return nil, fmt.Errorf("tap %s: that network device is no tap: %w", name, hypervisor.ErrInvalid)
		}
		return nil, fmt.Errorf("tap %s: there is no such device (ip tuntap add %s mode tap user $USER makes one): %w", name, name, os.ErrNotExist)
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("tap %s: open /dev/net/tun: %w", name, err)
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		_ = unix.Close(fd)
		switch {
		case errors.Is(err, unix.EBUSY):
			return nil, fmt.Errorf("tap %s: another program has it: %w: %w", name, err, hypervisor.ErrBusy)
		case errors.Is(err, unix.EPERM):
			return nil, fmt.Errorf("tap %s: it belongs to another user: %w", name, err)
		case errors.Is(err, unix.EINVAL):
			return nil, fmt.Errorf("tap %s: it is no tap of one queue: %w", name, err)
		}
		return nil, fmt.Errorf("tap %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), "/dev/net/tun"), nil
}
