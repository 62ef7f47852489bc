// Package dial listens on and connects to addresses in the form of Plan 9's
// dial(2): unix!/path, tcp!host!port and vsock!cid!port.
//
// It knows nothing of 9P beside the port that is 9P's. It imports the standard
// library, mdlayher/vsock and internal/unixsock.
package dial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/mdlayher/vsock"

	"vmfs/internal/unixsock"
)

// DefaultPort is where 9P is served if an address names no port.
const DefaultPort = "564"

// ErrAddress is the error of an address that is not a dial string.
var ErrAddress = errors.New("bad address")

// Addr is a Plan 9 dial string taken apart. It is a net.Addr.
type Addr struct {
	// Net is "unix", "tcp" or "vsock".
	Net string

	// Host is the socket's path, the host, or the context id. "*" is any.
	Host string

	// Port is a number or a service's name. A Unix socket has none.
	Port string
}

// Network implements net.Addr.
func (a Addr) Network() string { return a.Net }

// String is the address in dial form.
func (a Addr) String() string {
	if a.Net == "unix" {
		return a.Net + "!" + a.Host
	}
	return a.Net + "!" + a.Host + "!" + a.Port
}

func badAddr(s, format string, args ...any) error {
	return fmt.Errorf("%w %q: %s", ErrAddress, s, fmt.Sprintf(format, args...))
}

const addrForms = "want unix!/path, tcp!host!port or vsock!cid!port"

// Parse takes a dial string apart: unix!/path, tcp!host!port or
// vsock!cid!port. The port may be left out for 564, and may be a name; the
// host may be "*" for any, the context id "*", "hypervisor", "local" or "host".
func Parse(s string) (Addr, error) {
	network, rest, ok := strings.Cut(s, "!")
	if !ok {
		if strings.HasPrefix(s, "/") {
			return Addr{}, badAddr(s, "did you mean unix!%s?", s)
		}
		return Addr{}, badAddr(s, addrForms)
	}
	switch network {
	case "unix":
		if err := unixsock.CheckPath(rest); err != nil {
			return Addr{}, badAddr(s, "%v", err)
		}
		return Addr{Net: "unix", Host: rest}, nil
	case "tcp", "net":
		a := Addr{Net: "tcp"}
		a.Host, a.Port = cutPort(rest)
		if a.Host == "" {
			return Addr{}, badAddr(s, "no host: use tcp!*!%s for any", a.Port)
		}
		if strings.Contains(a.Port, "!") || a.Port == "" {
			return Addr{}, badAddr(s, addrForms)
		}
		if n, err := strconv.Atoi(a.Port); err == nil && (n < 0 || n > 65535) {
			return Addr{}, badAddr(s, "port %d is not within 0 to 65535", n)
		}
		return a, nil
	case "vsock":
		a := Addr{Net: "vsock"}
		a.Host, a.Port = cutPort(rest)
		if _, _, err := a.vsock(); err != nil {
			return Addr{}, badAddr(s, "%v", err)
		}
		return a, nil
	}
	return Addr{}, badAddr(s, "unknown network %q: %s", network, addrForms)
}

func cutPort(s string) (host, port string) {
	host, port, ok := strings.Cut(s, "!")
	if !ok {
		port = DefaultPort
	}
	return host, port
}

// vsock gives the numbers of a vsock address.
func (a Addr) vsock() (cid, port uint32, err error) {
	switch a.Host {
	case "*", "any":
		cid = ^uint32(0)
	case "hypervisor":
		cid = vsock.Hypervisor
	case "local":
		cid = vsock.Local
	case "host":
		cid = vsock.Host
	default:
		n, err := strconv.ParseUint(a.Host, 10, 32)
		if err != nil {
			return 0, 0, fmt.Errorf("context id %q is not a number, nor one of *, hypervisor, local, host", a.Host)
		}
		cid = uint32(n)
	}
	n, err := strconv.ParseUint(a.Port, 10, 32)
	if err != nil {
		return 0, 0, fmt.Errorf("vsock port %q is not a number", a.Port)
	}
	return cid, uint32(n), nil
}

// hostPort gives what package net wants for a TCP address.
func (a Addr) hostPort(ctx context.Context) (string, error) {
	host, port := a.Host, a.Port
	if host == "*" {
		host = ""
	}
	if port == "9fs" || port == "9pfs" {
		port = DefaultPort // not every system's services(5) has them
	}
	n, err := net.DefaultResolver.LookupPort(ctx, "tcp", port)
	if err != nil {
		return "", fmt.Errorf("port %q: %w", port, err)
	}
	return net.JoinHostPort(host, strconv.Itoa(n)), nil
}

// String writes a network address in dial form.
func String(addr net.Addr) string {
	switch a := addr.(type) {
	case nil:
		return ""
	case Addr:
		return a.String()
	case *net.UnixAddr:
		return "unix!" + a.Name
	case *net.TCPAddr:
		host := a.IP.String()
		if a.IP.IsUnspecified() || a.IP == nil {
			host = "*"
		}
		if a.Zone != "" {
			host += "%" + a.Zone
		}
		return "tcp!" + host + "!" + strconv.Itoa(a.Port)
	case *vsock.Addr:
		host := strconv.FormatUint(uint64(a.ContextID), 10)
		if a.ContextID == ^uint32(0) {
			host = "*"
		}
		return "vsock!" + host + "!" + strconv.FormatUint(uint64(a.Port), 10)
	}
	return addr.Network() + "!" + addr.String()
}
