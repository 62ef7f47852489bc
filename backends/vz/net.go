package vz

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"

	"vmfs/backends/hypervisor"
	"vmfs/backends/vz/shim"
	"vmfs/internal/unixsock"
)

// firstNet is the descriptor of the first network that the shim inherits.
const firstNet = shim.FirstNet

// net is the near end of a network's socket.
func (d runDir) net(i int) string { return d.Path(netSocket(i)) }

func netSocket(i int) string { return "net" + strconv.Itoa(i) + ".sock" }

// The room of a network's socket: the framework's documentation wants at least twice as
// much to receive as to send, and recommends four times.
const (
	netSend    = 1 << 20
	netReceive = 4 << 20
)

// openNet connects a datagram socket to the one that vz.net-socket names, where a program
// such as gvproxy or socket_vmnet has the network. Without one it is nil.
func openNet(_ context.Context, dir runDir, c *hypervisor.VMConfig) (*os.File, error) {
	path := c.Extras[keyNetSocket]
	if path == "" {
		return nil, nil
	}
	fail := func(err error) (*os.File, error) { return nil, fmt.Errorf("%s=%s: %w", keyNetSocket, path, err) }
	for _, p := range []string{path, dir.net(0)} {
		if err := unixsock.CheckPath(p); err != nil {
			return fail(err)
		}
	}
	near := &net.UnixAddr{Name: dir.net(0), Net: "unixgram"}
	conn, err := net.DialUnix("unixgram", near, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return fail(fmt.Errorf("who has the network is not there: %w", err))
	}
	defer conn.Close() // the file has a descriptor of its own
	if err := os.Chmod(near.Name, 0o600); err != nil {
		return fail(err)
	}
	// Less has to do where more is refused.
	_ = conn.SetWriteBuffer(netSend)
	_ = conn.SetReadBuffer(netReceive)
	f, err := conn.File()
	if err != nil {
		return fail(err)
	}
	return f, nil
}
