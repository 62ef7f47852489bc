package qemu

import (
	"crypto/sha256"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"vmfs/backends/hypervisor"
)

// networks makes a virtio network device of every NetworkConfig. A tap is opened
// by the server and inherited, so that QEMU needs no privilege for it.
func (p *plan) networks(a *commandLine) error {
	for i, n := range p.config.Networks {
		id := "net" + strconv.Itoa(i)
		mac, err := p.mac(i)
		if err != nil {
			return err
		}
		if kinds(n) != 1 {
			return fmt.Errorf("network %d: want one of a tap, user and passt: %w", i, hypervisor.ErrInvalid)
		}
		switch {
		case n.User:
			o := opt("user").set("id", id)
			for _, f := range n.Forwards {
				rule, err := parseForward(f)
				if err != nil {
					return fmt.Errorf("network %d: %w", i, err)
				}
				o.set("hostfwd", rule.forQEMU())
			}
			a.opt("netdev", o)
		case n.Passt:
			o, err := p.passt(i, n)
			if err != nil {
				return fmt.Errorf("network %d: %w", i, err)
			}
			a.opt("netdev", o)
		default:
			if len(n.Forwards) > 0 {
				return fmt.Errorf("network %d: a tap forwards no ports: %w", i, hypervisor.ErrInvalid)
			}
			o := opt("tap").set("id", id).num("fd", int64(p.file(fileTap+n.TAPDevice)))
			if p.accel == accelKVM && p.host.vhostNet() {
				o.on("vhost", true)
			}
			a.opt("netdev", o)
		}
		if _, err := address(n); err != nil {
			return fmt.Errorf("network %d: %w", i, err)
		}
		a.opt("device", opt("virtio-net-pci").set("id", "nic"+strconv.Itoa(i)).set("netdev", id).set("mac", mac).set("romfile", ""))
	}
	return nil
}

// mac returns the device's address: the one set, or one that is the same at every
// start of this VM and another for every other VM.
func (p *plan) mac(i int) (string, error) {
	set := p.config.Networks[i].MAC
	if set == "" {
		sum := sha256.Sum256([]byte(p.config.UUID + "\x00" + p.config.Name + "\x00" + strconv.Itoa(i)))
		return net.HardwareAddr{0x52, 0x54, 0x00, sum[0], sum[1], sum[2]}.String(), nil
	}
	hw, err := net.ParseMAC(set)
	if err != nil || len(hw) != 6 || hw[0]&1 != 0 {
		return "", fmt.Errorf("network %d: %q is not the address of an Ethernet device: %w", i, set, hypervisor.ErrInvalid)
	}
	return hw.String(), nil
}

// kinds counts what a network is said to be.
func kinds(n hypervisor.NetworkConfig) (count int) {
	for _, is := range []bool{n.TAPDevice != "", n.User, n.Passt} {
		if is {
			count++
		}
	}
	return count
}

// A forward is a port of the host that leads into the guest. The host's address
// may be an IPv6 address in brackets, and empty for all.
type forward struct{ proto, addr, hostPort, guestPort string }

func (f forward) forQEMU() string {
	return fmt.Sprintf("%s:%s:%s-:%s", f.proto, f.addr, f.hostPort, f.guestPort)
}

// parseForward reads PROTO:HOSTADDR:HOSTPORT:GUESTPORT.
func parseForward(rule string) (forward, error) {
	bad := func() (forward, error) {
		return forward{}, fmt.Errorf("forward %q: want PROTO:HOSTADDR:HOSTPORT:GUESTPORT: %w", rule, hypervisor.ErrInvalid)
	}
	proto, rest, ok := strings.Cut(rule, ":")
	if !ok || proto != "tcp" && proto != "udp" {
		return bad()
	}
	i := strings.LastIndexByte(rest, ':')
	if i < 0 {
		return bad()
	}
	hostPart, guestPort := rest[:i], rest[i+1:]
	i = strings.LastIndexByte(hostPart, ':')
	if i < 0 {
		return bad()
	}
	host, hostPort := hostPart[:i], hostPart[i+1:]
	for _, port := range []string{hostPort, guestPort} {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return bad()
		}
	}
	if host != "" {
		addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"))
		if err != nil || addr.Is6() != strings.HasPrefix(host, "[") {
			return bad()
		}
	}
	return forward{proto, host, hostPort, guestPort}, nil
}

// address returns the kernel argument that gives the device its address, or ""
// where none is set. The kernel takes it as ip=CLIENT:SERVER:GATEWAY:NETMASK.
func address(n hypervisor.NetworkConfig) (string, error) {
	if n.IP == "" {
		if n.Netmask != "" {
			return "", fmt.Errorf("a netmask without an address: %w", hypervisor.ErrInvalid)
		}
		return "", nil
	}
	ip, err := netip.ParseAddr(n.IP)
	if err != nil || !ip.Is4() {
		return "", fmt.Errorf("%q is not an IPv4 address: %w", n.IP, hypervisor.ErrInvalid)
	}
	if n.Netmask != "" {
		mask, err := netip.ParseAddr(n.Netmask)
		if err != nil || !mask.Is4() {
			return "", fmt.Errorf("%q is not a netmask: %w", n.Netmask, hypervisor.ErrInvalid)
		}
		b := mask.As4()
		if ones, bits := net.IPMask(b[:]).Size(); ones == 0 && bits == 0 {
			return "", fmt.Errorf("%q is not a netmask: %w", n.Netmask, hypervisor.ErrInvalid)
		}
	}
	return "ip=" + n.IP + ":::" + n.Netmask, nil
}

// addresses returns the kernel arguments for all addresses that are set. Linux
// names the devices in the order of their PCI addresses, which is that of the
// configuration.
func (p *plan) addresses() []string {
	var words []string
	for i, n := range p.config.Networks {
		if word, err := address(n); err == nil && word != "" {
			words = append(words, word+"::eth"+strconv.Itoa(i)+":off")
		}
	}
	return words
}
