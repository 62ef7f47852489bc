package ninep

import (
	"net"
	"net/netip"
	"strconv"

	"vmfs/internal/unixsock"
	"vmfs/ninep/dial"
)

// caller is what the server knows of a connection's other end.
type caller struct {
	network  string
	listener string
	remote   string
	user     string
	fixed    bool
	cred     unixsock.Peer
	known    bool
}

var _ Caller = (*caller)(nil)

func newCaller(conn net.Conn, ln net.Listener) *caller {
	c := new(caller)
	if u, ok := ln.(*userListener); ok {
		c.user, c.fixed = u.user, true
	}
	local := conn.LocalAddr()
	if ln != nil {
		local = ln.Addr()
	}
	if local != nil {
		c.network = local.Network()
		c.listener = dial.String(local)
	}
	if ra := conn.RemoteAddr(); ra != nil && c.network != "unix" {
		c.remote = dial.String(ra)
	}
	var err error
	c.cred, err = unixsock.PeerOf(conn)
	c.known = err == nil
	return c
}

func (c *caller) Network() string           { return c.network }
func (c *caller) Listener() string          { return c.listener }
func (c *caller) Remote() string            { return c.remote }
func (c *caller) FixedUser() (string, bool) { return c.user, c.fixed }

func (c *caller) PeerCred() (uid, gid uint32, groups []uint32, pid int, ok bool) {
	return c.cred.UID, c.cred.GID, c.cred.Groups, c.cred.PID, c.known
}

// WithUser names the user that clients of a listener act for, whatever they
// say: the way to give users to a network that knows none, such as TCP.
func WithUser(ln net.Listener, user string) net.Listener {
	return &userListener{Listener: ln, user: user}
}

type userListener struct {
	net.Listener
	user string
}

// peerName says who is at the other end, for the log.
func peerName(c *caller) string {
	switch {
	case c.known:
		return "uid " + strconv.FormatUint(uint64(c.cred.UID), 10)
	case c.remote == "":
		return c.network
	}
	if a, err := dial.Parse(c.remote); err == nil && a.Net != "unix" {
		return a.Net + "!" + a.Host
	}
	return c.remote
}

// countedFor says whom the limits count a connection for. One host has all of loopback, and as
// a rule a whole /64 of IPv6, to choose its addresses from.
func (c *caller) countedFor() string {
	if c.known || c.remote == "" {
		return peerName(c)
	}
	a, err := dial.Parse(c.remote)
	if err != nil || a.Net != "tcp" {
		return peerName(c)
	}
	ip, err := netip.ParseAddr(a.Host)
	switch {
	case err != nil:
		return peerName(c)
	case ip.Unmap().IsLoopback():
		return "tcp!loopback"
	case ip.Unmap().Is4():
		return "tcp!" + ip.Unmap().String()
	}
	return "tcp!" + netip.PrefixFrom(ip.WithZone(""), 64).Masked().String()
}
