package ninep

import (
	"errors"
	"fmt"
	"net"
	"time"
)

var (
	errTooManyConns = errors.New("too many connections")
	errIdle         = errors.New("the client left its connection idle, and others need the room")
)

// now is the time since the server began.
func (s *Server) now() time.Duration { return time.Since(s.began) }

// newConn registers a connection, if the limits have room for it.
func (s *Server) newConn(nc net.Conn, ln net.Listener) (*conn, error) {
	c := makeConn(s, nc, newCaller(nc, ln))
	c.ln = ln
	p, ok := s.Attacher.(Privileger)
	privileged := ok && p.Privileged(c.caller)
	if privileged {
		c.user += ", privileged" // apart from processes of that user that are not
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return nil, ErrShutdown
	}
	share := s.users[c.user]
	if share == nil {
		share = &userShare{all: &s.usage, limits: &s.limits, privileged: privileged}
	}
	c.share, c.out.share = share, share
	s.sweep()
	full, err := s.full(c)
	if full != nil && s.makeRoom(c, full) {
		_, err = s.full(c)
	}
	if err != nil {
		return nil, err
	}
	if !share.openFiles(connFiles) {
		return nil, fmt.Errorf("%w: %s has %d descriptors, all clients %d", errTooManyConns, c.user, share.files.Load(), s.usage.files.Load())
	}
	s.users[c.user] = share
	share.conns++
	s.conns[c] = struct{}{}
	if c.limited() {
		s.listeners[ln]++
	}
	s.wg.Add(1)
	return c, nil
}

// limited reports whether a connection counts for its listener.
func (c *conn) limited() bool { return c.ln != nil && !c.share.privileged }

// full says why there is no room for a connection, and where its user is not to blame
// which connections take it. mu is held.
func (s *Server) full(c *conn) (with func(*conn) bool, err error) {
	most := s.limits.Conns
	if !c.share.privileged {
		most -= most / reservedConns
	}
	switch {
	case c.share.conns >= s.limits.UserConns:
		return nil, fmt.Errorf("%w: %s has %d", errTooManyConns, c.user, c.share.conns)
	case len(s.conns) >= most:
		return func(*conn) bool { return true }, fmt.Errorf("%w: the server has %d", errTooManyConns, len(s.conns))
	case c.limited() && s.listeners[c.ln] >= s.limits.ListenerConns:
		return func(o *conn) bool { return o.ln == c.ln }, fmt.Errorf("%w: the listener has %d", errTooManyConns, s.listeners[c.ln])
	}
	return nil, nil
}

func (s *Server) dropConn(c *conn) {
	s.mu.Lock()
	s.forget(c)
	s.mu.Unlock()
	s.wg.Done()
}

// forget takes a connection from those that count, once. mu is held.
func (s *Server) forget(c *conn) {
	if _, there := s.conns[c]; !there {
		return
	}
	delete(s.conns, c)
	if c.limited() {
		s.listeners[c.ln]--
	}
	c.share.openFiles(-connFiles)
	if c.share.conns--; c.share.conns == 0 {
		delete(s.users, c.user)
	}
}

// sweep hangs up on connections that hold nothing and say nothing. mu is held.
func (s *Server) sweep() {
	now := s.now()
	if now-s.swept < min(s.limits.Idle/4, time.Second) {
		return
	}
	s.swept = now
	for c := range s.conns {
		if c.idle(now) >= s.limits.Idle && c.holdsNothing() {
			s.hangUp(c)
		}
	}
}

// seekEvery is how often room is made at most where there is none: a client that is
// refused again and again must not have all connections looked at each time.
const seekEvery = 10 * time.Millisecond

// makeRoom hangs up on one connection in favour of another: of those that take the
// room, and of the user who has most of them, more than the other one's, the one that
// has been idle for longest. mu is held.
func (s *Server) makeRoom(c *conn, with func(*conn) bool) bool {
	now := s.now()
	if now-s.sought < seekEvery {
		return false
	}
	s.sought = now
	var most *userShare
	has := make(map[*userShare]int)
	for o := range s.conns {
		if o.share.privileged || !with(o) {
			continue
		}
		if has[o.share]++; most == nil || has[o.share] > has[most] {
			most = o.share
		}
	}
	if has[most] <= has[c.share]+1 {
		return false
	}
	var victim *conn
	longest := s.limits.Idle
	for o := range s.conns {
		if o.share != most || !with(o) {
			continue
		}
		if d := o.idle(now); d >= longest {
			victim, longest = o, d
		}
	}
	if victim == nil {
		return false
	}
	s.hangUp(victim)
	return true
}

// hangUp ends a connection, whose place is free at once. mu is held.
func (s *Server) hangUp(c *conn) {
	c.log.Warn("hanging up", "err", errIdle)
	s.forget(c)
	c.cut()
}

// idle is for how long the client has said nothing and waited for nothing.
func (c *conn) idle(now time.Duration) time.Duration {
	since := time.Duration(c.waits.Load())
	if s := c.sess.Load(); since == 0 || s != nil && s.blocked.Load() != 0 {
		return 0
	}
	return now - since
}

// holdsNothing reports whether nothing is lost with the connection.
func (c *conn) holdsNothing() bool {
	s := c.sess.Load()
	if s == nil {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fids.n == 0 && s.running == 0
}
