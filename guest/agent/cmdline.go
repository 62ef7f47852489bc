package agent

import (
	"fmt"
	"net/netip"
	"strings"
)

// cmdline is the kernel's command line. Of a key given twice the last counts,
// as in the kernel.
type cmdline map[string]string

// parseCmdline splits at white space; double quotes keep it, as in the kernel.
func parseCmdline(s string) cmdline {
	c := cmdline{}
	quoted := false
	for word := range strings.FieldsFuncSeq(s, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return !quoted && (r == ' ' || r == '\t' || r == '\n')
	}) {
		key, value, _ := strings.Cut(strings.ReplaceAll(word, `"`, ""), "=")
		c[key] = value
	}
	return c
}

func (c cmdline) has(key string) bool { _, ok := c[key]; return ok }

// netConfig is a static network configuration.
type netConfig struct {
	device  string
	addr    netip.Prefix
	gateway netip.Addr // may be invalid: none
	dns     netip.Addr // may be invalid: none
	host    string
}

// network returns the configuration that the command line asks for, or nil.
func (c cmdline) network() (*netConfig, error) {
	if ip, ok := c["ip"]; ok && ip != "off" && ip != "none" {
		return parseIP(ip)
	}
	switch v := c["vmfs.net"]; v {
	case "", "none":
		return nil, nil
	case "user":
		return &netConfig{
			device:  "eth0",
			addr:    netip.MustParsePrefix("10.0.2.15/24"),
			gateway: netip.MustParseAddr("10.0.2.2"),
			dns:     netip.MustParseAddr("10.0.2.3"),
		}, nil
	default:
		return nil, fmt.Errorf("vmfs.net=%s: it can be user or none; for a static address use ip=", v)
	}
}

// parseIP reads the value of ip=CLIENT:SERVER:GW:NETMASK:HOST:DEVICE:AUTOCONF:DNS.
// Only static IPv4 addresses are supported; trailing fields may be left out.
func parseIP(s string) (*netConfig, error) {
	f := strings.Split(s, ":")
	field := func(i int) string {
		if i < len(f) {
			return f[i]
		}
		return ""
	}
	bad := func(what string) error {
		return fmt.Errorf("ip=%s: %s; wanted ip=CLIENT::GATEWAY:NETMASK:HOST:DEVICE::DNS with IPv4 addresses", s, what)
	}
	switch field(6) {
	case "", "off", "none":
	default:
		return nil, bad("automatic configuration (" + field(6) + ") is not supported")
	}
	addr, err := netip.ParseAddr(field(0))
	if err != nil || !addr.Is4() {
		return nil, bad("bad client address")
	}
	bits := 24
	if m := field(3); m != "" {
		mask, err := netip.ParseAddr(m)
		if err != nil || !mask.Is4() {
			return nil, bad("bad netmask")
		}
		if bits = maskBits(mask); bits < 0 {
			return nil, bad("bad netmask")
		}
	}
	c := &netConfig{device: "eth0", addr: netip.PrefixFrom(addr, bits), host: field(4)}
	if d := field(5); d != "" {
		c.device = d
	}
	for _, opt := range []struct {
		field int
		what  string
		to    *netip.Addr
	}{{2, "gateway", &c.gateway}, {7, "DNS", &c.dns}} {
		if v := field(opt.field); v != "" && v != "0.0.0.0" {
			if *opt.to, err = netip.ParseAddr(v); err != nil || !opt.to.Is4() {
				return nil, bad("bad " + opt.what + " address")
			}
		}
	}
	return c, nil
}

// maskBits returns the length of a netmask, or -1 if its ones are not all in front.
func maskBits(mask netip.Addr) int {
	b := mask.As4()
	v := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	n := 0
	for ; v&(1<<31) != 0; v <<= 1 {
		n++
	}
	if v != 0 {
		return -1
	}
	return n
}
