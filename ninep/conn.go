package ninep

import (
	"context"
	"net"
)

type conn struct {
	srv    *Server
	nc     net.Conn
	caller *caller
	user   string
}

func makeConn(s *Server, nc net.Conn, cl *caller) *conn {
	return &conn{srv: s, nc: nc, caller: cl, user: peerName(cl)}
}
func (c *conn) serve(ctx context.Context) error { c.srv.dropConn(c); return c.nc.Close() }
func (c *conn) drain()                          {}
func (c *conn) cut()                            {}
func peerName(c *caller) string                 { return "" }
