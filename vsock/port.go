package vsock

import (
	"errors"
	"fmt"
	"net"
	"strconv"
)

// MaxPort is the highest port a stream can have. Port 4294967295 means "any
// port" to the sockets API, and 0 has no meaning a user could want.
const MaxPort = 1<<32 - 2

var (
	// ErrRefused says that the guest (or the device for it) answered, and
	// that nothing listens on the port.
	ErrRefused = errors.New("connection refused")

	// ErrUnavailable says that there is nobody to ask: no process serves the
	// socket, or the host has no such CID or no vsock at all.
	ErrUnavailable = errors.New("no vsock device answers")

	// ErrPort says that a port is not in 1..MaxPort.
	ErrPort = errors.New("bad vsock port")

	// ErrProtocol says that whoever serves the Unix socket does not speak the
	// hybrid vsock protocol.
	ErrProtocol = errors.New("not the hybrid vsock protocol")
)

// CheckPort returns an error that wraps ErrPort unless port can be dialled
// and listened on.
func CheckPort(port int) error {
	if port < 1 || uint64(port) > MaxPort {
		return fmt.Errorf("%w %d: want 1..%d", ErrPort, port, uint32(MaxPort))
	}
	return nil
}

// ParsePort reads a decimal port in its one spelling: no sign, no spaces, no
// leading zeros. Its errors wrap ErrPort.
func ParsePort(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n < 1 || n > MaxPort || s[0] == '0' || s[0] == '+' {
		return 0, fmt.Errorf("%w %q: want a decimal number in 1..%d", ErrPort, s, uint32(MaxPort))
	}
	return int(n), nil
}

// Conn is what dialling and accepting yield behind net.Conn: a stream whose
// two directions end apart.
type Conn interface {
	net.Conn
	// CloseWrite says that no more bytes will be written: the peer reads
	// those under way and then end of file. Reading goes on.
	CloseWrite() error
	// CloseRead says that no more bytes will be read.
	CloseRead() error
}

// Addr is one end of a stream. CID is set for kernel sockets, Socket for
// hybrid ones.
type Addr struct {
	CID    int64
	Socket string
	Port   int
}

var _ net.Addr = Addr{}

// Network returns "vsock".
func (Addr) Network() string { return "vsock" }

func (a Addr) String() string {
	if a.Socket != "" {
		return a.Socket + ":" + strconv.Itoa(a.Port)
	}
	return strconv.FormatInt(a.CID, 10) + ":" + strconv.Itoa(a.Port)
}
