package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"vmfs/backends/hypervisor"
)

func parseDisk(v string) (hypervisor.DiskConfig, error) {
	d := hypervisor.DiskConfig{Format: hypervisor.DiskRaw}
	fields, err := parseFields(v)
	if err != nil {
		return d, err
	}
	for _, f := range fields {
		switch f.key {
		case "path":
			d.Path, err = f.value, checkPath(f.value)
		case "format":
			d.Format = hypervisor.DiskFormat(f.value)
			if d.Format != hypervisor.DiskRaw && d.Format != hypervisor.DiskQCOW2 {
				err = fmt.Errorf("unknown format %q: there are raw and qcow2", f.value)
			}
		case "readonly":
			d.Readonly = f.value == "yes"
			if f.value != "yes" && f.value != "no" {
				err = fmt.Errorf("readonly is yes or no, not %q", f.value)
			}
		case "bps":
			d.IOBps, err = parseRate(f.value)
		case "burst":
			d.IOBurstBps, err = parseRate(f.value)
		default:
			err = fmt.Errorf("unknown part %q: there are path, format, readonly, bps and burst", f.key)
		}
		if err != nil {
			return d, err
		}
	}
	switch {
	case d.Path == "":
		return d, errors.New("a disk needs path:FILE")
	case d.IOBurstBps != 0 && d.IOBurstBps < d.IOBps:
		return d, errors.New("burst is less than bps")
	case d.IOBurstBps != 0 && d.IOBps == 0:
		return d, errors.New("burst needs bps")
	}
	return d, nil
}

func parseRate(v string) (int64, error) {
	n, err := ParseSize(v)
	if err == nil && n == 0 {
		return 0, errors.New("a limit of 0 bytes a second would stop the disk: leave it out for no limit")
	}
	return n, err
}

func formatDisk(d hypervisor.DiskConfig) string {
	fields := []field{{"path", d.Path}, {"format", string(d.Format)}}
	if d.Readonly {
		fields = append(fields, field{"readonly", "yes"})
	}
	if d.IOBps != 0 {
		fields = append(fields, field{"bps", FormatSize(d.IOBps)})
	}
	if d.IOBurstBps != 0 {
		fields = append(fields, field{"burst", FormatSize(d.IOBurstBps)})
	}
	return joinFields(fields)
}

// maxTAPName is IFNAMSIZ less the NUL byte (netdevice(7)).
const maxTAPName = 15

func parseNet(v string) (hypervisor.NetworkConfig, error) {
	var n hypervisor.NetworkConfig
	fields, err := parseFields(v, "forward")
	if err != nil {
		return n, err
	}
	for _, f := range fields {
		switch f.key {
		case "tap":
			n.TAPDevice = f.value
			if f.value == "" || len(f.value) > maxTAPName || strings.ContainsAny(f.value, "/ \t") {
				err = fmt.Errorf("%q is not an interface name: want 1 to %d bytes without / and blanks", f.value, maxTAPName)
			}
		case "user":
			n.User = true
			if f.value != "" {
				err = errors.New("user takes no value")
			}
		case "passt":
			n.Passt = true
			if f.value != "" {
				err = errors.New("passt takes no value")
			}
		case "mac":
			n.MAC, err = parseMAC(f.value)
		case "ip":
			n.IP, err = parseIPv4(f.value)
		case "netmask":
			n.Netmask, err = parseIPv4(f.value)
		case "forward":
			n.Forwards = append(n.Forwards, f.value)
			err = checkForward(f.value)
		default:
			err = fmt.Errorf("unknown part %q: there are tap, user, passt, mac, ip, netmask and forward", f.key)
		}
		if err != nil {
			return n, err
		}
	}
	kinds := 0
	for _, is := range []bool{n.TAPDevice != "", n.User, n.Passt} {
		if is {
			kinds++
		}
	}
	switch {
	case kinds != 1:
		return n, errors.New("want one of tap:NAME, user and passt")
	case (n.IP == "") != (n.Netmask == ""):
		return n, errors.New("ip and netmask go together")
	case n.TAPDevice == "" && n.IP != "":
		return n, errors.New("a network of user or passt hands out its own addresses: leave out ip and netmask")
	case n.TAPDevice != "" && len(n.Forwards) > 0:
		return n, errors.New("forward is for networks of user and passt")
	}
	return n, nil
}

func parseMAC(v string) (string, error) {
	mac, err := net.ParseMAC(v)
	if err != nil || len(mac) != 6 {
		return "", fmt.Errorf("%q is not a MAC address", v)
	}
	if mac[0]&1 != 0 {
		return "", fmt.Errorf("%q is a multicast address: the first byte must be even", v)
	}
	return mac.String(), nil
}

func parseIPv4(v string) (string, error) {
	a, err := netip.ParseAddr(v)
	if err != nil || !a.Is4() {
		return "", fmt.Errorf("%q is not an IPv4 address", v)
	}
	return a.String(), nil
}

func checkForward(v string) error {
	parts := strings.Split(v, ":")
	bad := fmt.Errorf("%q is not a forward: want tcp|udp:ADDR:PORT:GUESTPORT", v)
	if len(parts) != 4 || parts[0] != "tcp" && parts[0] != "udp" {
		return bad
	}
	if _, err := parseIPv4(parts[1]); err != nil && parts[1] != "" {
		return fmt.Errorf("forward %s: %w", v, err)
	}
	for _, p := range parts[2:] {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return bad
		}
	}
	return nil
}

func formatNet(n hypervisor.NetworkConfig) string {
	var fields []field
	switch {
	case n.User:
		fields = append(fields, field{"user", ""})
	case n.Passt:
		fields = append(fields, field{"passt", ""})
	default:
		fields = append(fields, field{"tap", n.TAPDevice})
	}
	for _, f := range []field{{"mac", n.MAC}, {"ip", n.IP}, {"netmask", n.Netmask}} {
		if f.value != "" {
			fields = append(fields, f)
		}
	}
	for _, f := range n.Forwards {
		fields = append(fields, field{"forward", f})
	}
	return joinFields(fields)
}

// pciAddress is a PCI address as lspci(8) writes it, the domain left out or not.
var pciAddress = regexp.MustCompile(`^([0-9a-fA-F]{4}:)?[0-9a-fA-F]{2}:[01][0-9a-fA-F]\.[0-7]$`)

func checkPCI(v string) error {
	if pciAddress.MatchString(v) || strings.HasPrefix(v, "/sys/") {
		return nil
	}
	return fmt.Errorf("%q is neither a PCI address (0000:01:00.0) nor a path in /sys", v)
}
