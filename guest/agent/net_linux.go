package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// startNetwork brings up the loopback and what the command line asks for. A
// device that is not there yet is configured when it comes.
func (a *agent) startNetwork() {
	if err := linkUp("lo"); err != nil {
		a.con.printf("vmfs guest: network: %v", err)
	}
	cfg, err := a.cmdline.network()
	if err != nil {
		a.con.printf("vmfs guest: network: %v", err)
		return
	}
	if cfg == nil {
		return
	}
	if cfg.host != "" {
		if err := unix.Sethostname([]byte(cfg.host)); err != nil {
			a.con.printf("vmfs guest: host name %s: %v", cfg.host, err)
		}
	}
	if cfg.dns.IsValid() {
		if err := os.WriteFile("/etc/resolv.conf", fmt.Appendf(nil, "nameserver %s\n", cfg.dns), 0o644); err != nil {
			a.con.printf("vmfs guest: network: %v", err)
		}
	}
	a.net.Store(cfg)
	a.configureNetwork()
}

// configureNetwork applies the configuration if the device is there. It may be
// called again for one that went and came.
func (a *agent) configureNetwork() {
	cfg := a.net.Load()
	if cfg == nil || !fileExists("/sys/class/net/"+cfg.device) {
		return
	}
	if err := cfg.apply(); err != nil {
		a.con.printf("vmfs guest: network: %s: %v", cfg.device, err)
	}
}

func (c *netConfig) apply() error {
	mask := [4]byte{}
	binary.BigEndian.PutUint32(mask[:], ^uint32(0)<<(32-c.addr.Bits()))
	for _, step := range []struct {
		what string
		req  uint
		addr [4]byte
	}{{"address", unix.SIOCSIFADDR, c.addr.Addr().As4()}, {"netmask", unix.SIOCSIFNETMASK, mask}} {
		err := ifreq(c.device, step.req, func(r *unix.Ifreq) error { return r.SetInet4Addr(step.addr[:]) })
		if err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	if err := linkUp(c.device); err != nil {
		return err
	}
	if c.gateway.IsValid() {
		if err := addDefaultRoute(c.gateway); err != nil {
			return fmt.Errorf("gateway %s: %w", c.gateway, err)
		}
	}
	return nil
}

func linkUp(device string) error {
	err := ifreq(device, unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error {
		r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
		return nil
	})
	if err != nil {
		return fmt.Errorf("%s up: %w", device, err)
	}
	return nil
}

// ifreq does one interface ioctl.
func ifreq(device string, req uint, fill func(*unix.Ifreq) error) error {
	r, err := unix.NewIfreq(device)
	if err != nil {
		return err
	}
	if err := fill(r); err != nil {
		return err
	}
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	return unix.IoctlIfreq(s, req, r)
}

// addDefaultRoute asks the kernel for a default route, by netlink: the ioctl
// for it takes a C structure that x/sys does not have.
func addDefaultRoute(gateway netip.Addr) error {
	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	if err := unix.Sendto(s, defaultRouteRequest(gateway), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	buf := make([]byte, 4096)
	n, _, err := unix.Recvfrom(s, buf, 0)
	if err != nil {
		return err
	}
	// struct nlmsghdr, then for NLMSG_ERROR a negative errno, 0 for success.
	if n < unix.NLMSG_HDRLEN+4 || binary.NativeEndian.Uint16(buf[4:]) != unix.NLMSG_ERROR {
		return errors.New("unexpected answer from the kernel")
	}
	if errno := -int32(binary.NativeEndian.Uint32(buf[unix.NLMSG_HDRLEN:])); errno != 0 && unix.Errno(errno) != unix.EEXIST {
		return unix.Errno(errno)
	}
	return nil
}

// defaultRouteRequest is RTM_NEWROUTE with struct rtmsg and one RTA_GATEWAY.
func defaultRouteRequest(gateway netip.Addr) []byte {
	const rtmsgLen = 12
	gw := gateway.As4()
	var b []byte
	b = binary.NativeEndian.AppendUint32(b, unix.NLMSG_HDRLEN+rtmsgLen+4+4)
	b = binary.NativeEndian.AppendUint16(b, unix.RTM_NEWROUTE)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	b = binary.NativeEndian.AppendUint32(b, 1) // sequence
	b = binary.NativeEndian.AppendUint32(b, 0) // port id: the kernel
	b = append(b, unix.AF_INET, 0, 0, 0,       // family; destination and source length, TOS
		unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST,
		0, 0, 0, 0) // flags
	b = binary.NativeEndian.AppendUint16(b, 8)
	b = binary.NativeEndian.AppendUint16(b, unix.RTA_GATEWAY)
	return append(b, gw[:]...)
}
