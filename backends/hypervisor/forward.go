package hypervisor

import (
	"net/netip"
	"strconv"
	"strings"
)

// A Forward is one of NetworkConfig.Forwards: a port of the host that leads into
// the guest.
type Forward struct {
	Proto               string     // tcp or udp
	Addr                netip.Addr // of the host; the zero Addr is all of them
	HostPort, GuestPort uint16
}

// ParseForward reads PROTO:ADDR:PORT:GUESTPORT. ADDR may be empty, and an IPv6
// address is in brackets.
func ParseForward(rule string) (f Forward, err error) {
	bad := invalidf("%q is not a forward: want tcp|udp:ADDR:PORT:GUESTPORT (an IPv6 ADDR in brackets)", rule)
	rest, guestPort, ok := cutLast(rule)
	if !ok {
		return f, bad
	}
	rest, hostPort, _ := cutLast(rest)
	proto, addr, ok := strings.Cut(rest, ":")
	if !ok || proto != "tcp" && proto != "udp" {
		return f, bad
	}
	f.Proto = proto
	host, herr := strconv.ParseUint(hostPort, 10, 16)
	guest, gerr := strconv.ParseUint(guestPort, 10, 16)
	if herr != nil || gerr != nil || host == 0 || guest == 0 {
		return f, bad
	}
	f.HostPort, f.GuestPort = uint16(host), uint16(guest)
	if addr != "" {
		f.Addr, err = netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(addr, "["), "]"))
		if err != nil || f.Addr.Zone() != "" || f.Addr.Is6() != strings.HasPrefix(addr, "[") || f.Addr.Is6() != strings.HasSuffix(addr, "]") {
			return f, bad
		}
	}
	return f, nil
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}
