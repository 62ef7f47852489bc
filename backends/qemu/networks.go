package qemu

import (
	"crypto/sha256"
	"fmt"
	"net"
	"strconv"

	"vmfs/backends/hostnet"
	"vmfs/backends/hypervisor"
)

// networks makes a virtio network device of every NetworkConfig. What is on the host
// is made by the server and inherited, so that QEMU needs no privilege for it.
func (p *plan) networks(a *commandLine) error {
	for i, n := range p.config.Networks {
		id := "net" + strconv.Itoa(i)
		var o *option
		switch {
		case n.User:
			o = opt("user").set("id", id)
			for _, rule := range n.Forwards {
				f, err := hypervisor.ParseForward(rule)
				if err != nil {
					return err
				}
				o.set("hostfwd", fmt.Sprintf("%s:%s:%d-:%d", f.Proto, hostnet.Address(f.Addr), f.HostPort, f.GuestPort))
			}
		case n.Passt:
			if !atLeast(p.program.version, 7, 2) {
				return fmt.Errorf("network %d: passt needs QEMU 7.2, and this is %s: use a user network instead: %w", i, p.program.version, hypervisor.ErrNotSupported)
			}
			o = opt("stream").set("id", id).on("server", false).set("addr.type", "fd").num("addr.str", int64(p.file(fileNetwork+strconv.Itoa(i))))
		default:
			o = opt("tap").set("id", id).num("fd", int64(p.file(fileNetwork+strconv.Itoa(i))))
			if p.accel == accelKVM && p.host.vhostNet() {
				o.on("vhost", true)
			}
		}
		a.opt("netdev", o)
		nic := opt("virtio-net-pci").set("id", "nic"+strconv.Itoa(i)).set("netdev", id).set("mac", p.mac(i)).set("romfile", "")
		a.opt("device", p.placeOf(nic, slotNetworks, i))
	}
	return nil
}

// mac returns the device's address: the one set, or one that is the same at every
// start of this VM and another for every other VM.
func (p *plan) mac(i int) string {
	if hw, err := net.ParseMAC(p.config.Networks[i].MAC); err == nil {
		return hw.String()
	}
	sum := sha256.Sum256([]byte(p.config.UUID + "\x00" + p.config.Name + "\x00" + strconv.Itoa(i)))
	return net.HardwareAddr{0x52, 0x54, 0x00, sum[0], sum[1], sum[2]}.String()
}

// addresses returns the kernel arguments for all addresses that are set, each as
// ip=CLIENT:SERVER:GATEWAY:NETMASK:HOST:DEVICE:AUTOCONF. Linux names the devices in the
// order of their PCI addresses, which is that of the configuration.
func (p *plan) addresses() []string {
	var words []string
	for i, n := range p.config.Networks {
		if n.IP != "" {
			words = append(words, fmt.Sprintf("ip=%s:::%s::eth%d:off", n.IP, n.Netmask, i))
		}
	}
	return words
}
