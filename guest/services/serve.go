package services

import (
	"errors"
	"io"
	"net"
	"runtime/debug"
	"sync"
	"time"
)

// Handler serves one stream. It may return before the peer is done; the stream
// is closed by whoever called it.
type Handler func(net.Conn)

// Server accepts streams.
type Server struct {
	Logf func(format string, args ...any)

	wg sync.WaitGroup
}

// Serve accepts streams until the listener is closed and hands each to the
// handler, in a goroutine of its own. It returns at once.
func (s *Server) Serve(ln net.Listener, h Handler) {
	s.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				// Too many open files, or a peer that is gone already. The
				// listener itself is sound: it lives through a change of the
				// guest's CID, too.
				s.Logf("accept on %v: %v", ln.Addr(), err)
				time.Sleep(100 * time.Millisecond)
				continue
			}
			s.wg.Go(func() { s.handle(c, h) })
		}
	})
}

// Wait waits until the listeners and all streams are closed.
func (s *Server) Wait() { s.wg.Wait() }

func (s *Server) handle(c net.Conn, h Handler) {
	defer c.Close()
	defer func() {
		if p := recover(); p != nil { // one stream's trouble must not end process 1
			s.Logf("stream on %v: %v\n%s", c.LocalAddr(), p, debug.Stack())
		}
	}()
	h(c)
	finish(c)
}

// lingerTime is how long finish waits for the peer to end.
const lingerTime = 5 * time.Second

// finish ends a stream so that the peer gets all that was written: to close it
// while there is input unread would reset it, and lose what is under way.
func finish(c net.Conn) {
	hc, ok := c.(interface{ CloseWrite() error })
	if !ok || hc.CloseWrite() != nil || c.SetReadDeadline(time.Now().Add(lingerTime)) != nil {
		return
	}
	_, _ = io.Copy(io.Discard, c) // any error is the end waited for
}
