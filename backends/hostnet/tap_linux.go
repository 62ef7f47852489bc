package hostnet

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"vmfs/backends/hypervisor"
)

// OpenTap opens an existing tap device of one queue for a VMM. It never makes one: a
// name that is mistyped is an error.
func OpenTap(ctx context.Context, name string) (*os.File, error) {
	f, err := openTap(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("tap %s: %w", name, err)
	}
	return f, nil
}

func openTap(ctx context.Context, name string) (*os.File, error) {
	if err := hypervisor.CheckInterface(name); err != nil {
		return nil, err
	}
	s, err := newSocket()
	if err != nil {
		return nil, err
	}
	defer s.close()
	driver, bus, err := s.driver(name)
	switch {
	case errors.Is(err, unix.ENODEV):
		return nil, fmt.Errorf("there is no such device (ip tuntap add %s mode tap user $USER makes one): %w", name, os.ErrNotExist)
	case err != nil:
		return nil, err
	case driver != "tun" || bus != "tap":
		return nil, fmt.Errorf("that network device is not a tap: %w", hypervisor.ErrInvalid)
	}
	f, err := attach(ctx, name, 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		return nil, fmt.Errorf("another program has it: %w: %w", err, hypervisor.ErrBusy)
	case errors.Is(err, unix.EPERM):
		return nil, fmt.Errorf("it belongs to another user: %w", err)
	case errors.Is(err, unix.EINVAL):
		return nil, fmt.Errorf("it is not a single-queue tap: %w", err)
	}
	return f, err
}

// BridgeTap makes a tap with the given name on a bridge of the host, for a VMM. The
// tap is there as long as somebody has the file.
func BridgeTap(ctx context.Context, bridge, name string) (*os.File, error) {
	f, err := bridgeTap(ctx, bridge, name)
	if err != nil {
		return nil, fmt.Errorf("bridge %s: %w", bridge, err)
	}
	return f, nil
}

func bridgeTap(ctx context.Context, bridge, name string) (f *os.File, err error) {
	for _, device := range []string{bridge, name} {
		if err := hypervisor.CheckInterface(device); err != nil {
			return nil, err
		}
	}
	s, err := newSocket()
	if err != nil {
		return nil, err
	}
	defer s.close()
	driver, _, err := s.driver(bridge)
	switch {
	case errors.Is(err, unix.ENODEV):
		return nil, fmt.Errorf("there is no such device (as root: ip link add %s type bridge && ip link set %s up): %w", bridge, bridge, os.ErrNotExist)
	case err != nil:
		return nil, err
	case driver != "bridge":
		return nil, fmt.Errorf("that network device is not a bridge of Linux's: %w", hypervisor.ErrInvalid)
	}
	f, err = attach(ctx, name, unix.IFF_TUN_EXCL)
	switch {
	case errors.Is(err, unix.EPERM):
		return nil, fmt.Errorf("a tap on it takes the right CAP_NET_ADMIN (run the server as root, or once: setcap cap_net_admin+ep /path/of/vmfs): %w", err)
	case errors.Is(err, unix.EBUSY):
		return nil, fmt.Errorf("the VM's tap %s is there already: %w: %w", name, err, hypervisor.ErrBusy)
	case err != nil:
		return nil, err
	}
	if err = s.join(bridge, name); err != nil {
		_ = f.Close() // the tap goes with it
		return nil, fmt.Errorf("tap %s: %w", name, err)
	}
	return f, nil
}

// attach opens the tap with that name, which the kernel makes if there is none.
func attach(ctx context.Context, name string, flags uint16) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV):
		return nil, fmt.Errorf("open /dev/net/tun: %w (as root: modprobe tun)", err)
	case err != nil:
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	err = whileBusy(ctx, func() error {
		return request(name, func(r *unix.Ifreq) error {
			r.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR | flags)
			return os.NewSyscallError("TUNSETIFF", unix.IoctlIfreq(fd, unix.TUNSETIFF, r))
		})
	})
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "/dev/net/tun"), nil
}

func request(name string, do func(*unix.Ifreq) error) error {
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	return do(r)
}

// A socket is what network devices are asked and told by.
type socket int

func newSocket() (socket, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	return socket(fd), os.NewSyscallError("socket", err)
}

func (s socket) close() { _ = unix.Close(int(s)) }

// driver says what kind of a device it is, and for a tun which. Devices that do not
// say are none of those that matter here.
func (s socket) driver(name string) (driver, bus string, err error) {
	info, err := unix.IoctlGetEthtoolDrvinfo(int(s), name)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return "", "", nil
	}
	if err != nil {
		return "", "", err
	}
	return unix.ByteSliceToString(info.Driver[:]), unix.ByteSliceToString(info.Bus_info[:]), nil
}

// join puts a tap on a bridge and sets it up.
func (s socket) join(bridge, tap string) error {
	do := func(what string, call uint, name string, set func(*unix.Ifreq)) (value uint32, err error) {
		err = request(name, func(r *unix.Ifreq) error {
			if set != nil {
				set(r)
			}
			err := os.NewSyscallError(what, unix.IoctlIfreq(int(s), call, r))
			value = r.Uint32()
			return err
		})
		return value, err
	}
	// A bridge takes the lowest address of its ports, which is not to be that of a VM
	// that comes and goes, and the lowest MTU.
	if err := s.setAddress(tap); err != nil {
		return err
	}
	mtu, err := do("SIOCGIFMTU", unix.SIOCGIFMTU, bridge, nil)
	if err != nil {
		return err
	}
	if _, err := do("SIOCSIFMTU", unix.SIOCSIFMTU, tap, func(r *unix.Ifreq) { r.SetUint32(mtu) }); err != nil {
		return err
	}
	index, err := do("SIOCGIFINDEX", unix.SIOCGIFINDEX, tap, nil)
	if err != nil {
		return err
	}
	if _, err := do("SIOCBRADDIF", unix.SIOCBRADDIF, bridge, func(r *unix.Ifreq) { r.SetUint32(index) }); err != nil {
		return err
	}
	_, err = do("SIOCSIFFLAGS", unix.SIOCSIFFLAGS, tap, func(r *unix.Ifreq) { r.SetUint16(unix.IFF_UP) })
	return err
}

// setAddress gives a tap a high address of its own.
func (s socket) setAddress(tap string) error {
	r := struct { // struct ifreq with its ifr_hwaddr
		name   [unix.IFNAMSIZ]byte
		family uint16
		addr   [14]byte
		_      [8]byte
	}{family: unix.ARPHRD_ETHER}
	copy(r.name[:], tap)
	sum := sha256.Sum256([]byte(tap))
	copy(r.addr[:6], append([]byte{0xfe}, sum[:]...))
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(s), unix.SIOCSIFHWADDR, uintptr(unsafe.Pointer(&r)))
	if errno != 0 {
		return os.NewSyscallError("SIOCSIFHWADDR", errno)
	}
	return nil
}
