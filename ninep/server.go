package ninep

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hugelgupf/p9/p9"

	"vmfs/internal/wait"
	"vmfs/ninep/dial"
)

// Server serves one tree to any number of clients. Set the fields before the
// first Serve and leave them alone after. Only Attacher is needed.
type Server struct {
	// Attacher gives the tree. If it is a UserAttacher too, each user gets
	// his own root from it.
	Attacher p9.Attacher

	// Log gets a line for everything that an operator may ask about; nothing
	// is logged if it is nil. Each connection of a client that does wrong is good for
	// a warning: who lets strangers connect limits them in the log's handler.
	Log *slog.Logger

	// Limits bound what clients can make the server hold.
	Limits Limits

	// Names gives names to users for the dialects that need them. If nil,
	// users are numbers.
	Names UserNames

	// tree keeps the plain methods of p9.File as exclusive as p9 promises,
	// and guards node.parent, node.name and node.deleted of every connection.
	tree   sync.RWMutex
	visits uint64 // guarded by tree: counts its changes, see node.visit

	once   sync.Once
	limits Limits // Limits with the defaults filled in
	log    *slog.Logger
	began  time.Time
	usage  usage
	turns  turns

	mu        sync.Mutex // guards what follows
	conns     map[*conn]struct{}
	users     map[string]*userShare
	listeners map[net.Listener]int // how many connections count for each
	swept     time.Duration        // when it was last looked which connections hold nothing
	sought    time.Duration        // when room was last made
	down      bool                 // Shutdown was called
	wg        sync.WaitGroup
}

// ErrShutdown is the error of serving with a Server that was shut down.
var ErrShutdown = errors.New("9P server is shut down")

func (s *Server) init() {
	s.once.Do(func() {
		s.limits = s.Limits.withDefaults()
		s.log = s.Log
		if s.log == nil {
			s.log = slog.New(slog.DiscardHandler)
		}
		s.conns = make(map[*conn]struct{})
		s.users = make(map[string]*userShare)
		s.listeners = make(map[net.Listener]int)
		s.began = time.Now()
		s.turns.init(s.now)
	})
}

// Serve accepts connections on ln and serves them until ctx ends, the listener
// fails or the server is shut down, and closes ln. It returns when all that it
// started has ended: nil after Shutdown, else what ended it. The end of ctx
// hangs up on the connections; Shutdown is the way that lets them finish.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	s.init()
	defer ln.Close()
	s.mu.Lock()
	if s.down {
		s.mu.Unlock()
		return ErrShutdown
	}
	s.listeners[ln] = 0
	s.wg.Add(1)
	s.mu.Unlock()
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		wg.Wait()
		cancel()
		s.mu.Lock()
		delete(s.listeners, ln)
		s.mu.Unlock()
		s.wg.Done()
	}()
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()

	s.log.Info("listening", "addr", dial.String(ln.Addr()))
	pause := wait.Backoff{First: 5 * time.Millisecond, Most: time.Second}
	for {
		nc, err := ln.Accept()
		if err != nil {
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case s.isDown():
				return nil
			case errors.Is(err, net.ErrClosed):
				return fmt.Errorf("accept on %s: %w", dial.String(ln.Addr()), err)
			}
			// Out of descriptors, or a client that left again: neither is a
			// reason to stop serving the others.
			d := pause.Next()
			s.log.Error("accept failed: trying again", "addr", dial.String(ln.Addr()), "err", err, "pause", d)
			_ = wait.For(ctx, d) // the end of ctx closes the listener
			continue
		}
		pause.Reset()
		c, err := s.newConn(nc, ln)
		if err != nil {
			s.log.Warn("connection refused", "addr", dial.String(ln.Addr()), "peer", peerName(newCaller(nc, ln)), "err", err)
			nc.Close()
			continue
		}
		wg.Go(func() { _ = c.serve(ctx) })
	}
}

// ServeConn serves one connection until its end and closes it. The error says
// what ended it if that was neither the client nor Shutdown.
func (s *Server) ServeConn(ctx context.Context, nc net.Conn) error {
	s.init()
	c, err := s.newConn(nc, nil)
	if err != nil {
		nc.Close()
		return err
	}
	return c.serve(ctx)
}

// Shutdown ends serving gracefully: listeners close, blocked requests are
// cancelled, what is in flight is answered, every fid is clunked, and the
// connections close. When ctx ends first, the connections are cut, and
// Shutdown returns ctx's error at once.
func (s *Server) Shutdown(ctx context.Context) error {
	s.init()
	s.mu.Lock()
	s.down = true
	for ln := range s.listeners {
		ln.Close()
	}
	for c := range s.conns {
		c.drain()
	}
	s.mu.Unlock()

	done := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	n := len(s.conns)
	for c := range s.conns {
		c.cut()
	}
	s.mu.Unlock()
	s.log.Warn("shutdown took too long: connections were cut", "connections", n)
	return fmt.Errorf("shutdown with %d connections left: %w", n, ctx.Err())
}

func (s *Server) isDown() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.down
}
