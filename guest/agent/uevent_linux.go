package agent

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// uevents is the kernel's stream of device events.
type uevents struct{ fd int }

func openUevents() (*uevents, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	// Plugging much memory makes many events at once. Too small a buffer only
	// costs exactness: see ENOBUFS below.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 1<<20)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("netlink: bind: %w", err)
	}
	return &uevents{fd}, nil
}

// run hands each event to f, and a nil event after some were lost. It returns
// when the socket fails for good.
func (u *uevents) run(f func(uevent)) {
	buf := make([]byte, 16<<10)
	for {
		n, _, err := unix.Recvfrom(u.fd, buf, 0)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ENOBUFS):
			f(nil)
		case err != nil:
			return
		default:
			if ev := parseUevent(buf[:n]); ev != nil {
				f(ev)
			}
		}
	}
}
