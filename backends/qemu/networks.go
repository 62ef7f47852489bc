package qemu

import (
	"fmt"
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
			if !atLeast(p.program.Version, 7, 2) {
				return fmt.Errorf("network %d: passt needs QEMU 7.2, and this is %s: use a user network instead: %w", i, p.program.Version, hypervisor.ErrNotSupported)
			}
			o = opt("stream").set("id", id).on("server", false).set("addr.type", "fd").num("addr.str", int64(p.file(fileNetwork+strconv.Itoa(i))))
		default:
			o = opt("tap").set("id", id).num("fd", int64(p.file(fileNetwork+strconv.Itoa(i))))
			if p.accel == accelKVM && p.host.vhostNet() {
				o.on("vhost", true)
			}
		}
		a.opt("netdev", o)
		nic := opt("virtio-net-pci").set("id", "nic"+strconv.Itoa(i)).set("netdev", id).set("mac", p.config.MAC(i)).set("romfile", "")
		a.opt("device", p.placeOf(nic, slotNetworks, i))
	}
	return nil
}
