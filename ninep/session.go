package ninep

import (
	"context"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/hugelgupf/p9/p9"

	"vmfs/ninep/wire"
)

// session is what lasts from one Tversion to the next: the dialect, the fids,
// and the requests under way.
type session struct {
	c       *conn
	srv     *Server
	dialect wire.Dialect
	google  bool // 9P2000.L.Google.N: p9's client, which expects p9's ways
	msize   uint32

	ctx    context.Context // of its requests
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup // goroutines of its requests
	ended  bool           // no request is under way or comes: what is open is abandoned; end sets it

	blocked atomic.Int32 // len(tags) is not 0

	mu      sync.Mutex // guards what follows, and what fid and async mark
	fids    fidTable
	tags    map[uint16]*request // requests under way, and Tflushes that wait for them
	running int                 // requests under way
	held    int                 // bytes that they hold
	mute    bool                // answer nothing more
}

func newSession(c *conn, d wire.Dialect, msize uint32) *session {
	s := &session{c: c, srv: c.srv, dialect: d, msize: msize}
	s.fids.share = c.share
	s.google = d.Is(wire.Google2 | wire.Google3)
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	return s
}

// is reports whether the session's dialect is one of those.
func (s *session) is(d wire.Dialect) bool { return s.dialect.Is(d) }

// isLinux reports whether the client is one that takes a QID's version for a
// promise.
func (s *session) isLinux() bool { return s.dialect == wire.Linux && !s.google }

// fillsReads reports whether the client is one that fills a read(2) with several
// Treads before its reader sees any of it: Linux, which is as good as alone in
// speaking these two dialects.
func (s *session) fillsReads() bool { return s.isLinux() || s.is(wire.Unix) }

// sent is a QID as this client sees it.
func (s *session) sent(q p9.QID) p9.QID {
	switch {
	case s.isLinux():
		q.Version = 0 // "do not cache"
	case s.is(wire.Plan9):
		q.Type &^= p9.TypeSymlink | p9.TypeLink // which it does not know
	}
	return q
}

// recovered keeps a file's panic from being everybody's.
func (s *session) recovered(what string, err *error) {
	if v := recover(); v != nil {
		s.c.log.Error("file panicked", "request", what, "panic", v, "stack", string(debug.Stack()))
		*err = &panicError{v}
	}
}

func (s *session) tagInUse(tag uint16) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tags[tag] != nil
}

// end aborts what is under way and clunks every fid. Requests under way are
// answered if answer is set.
func (s *session) end(cause error, answer bool) {
	s.mu.Lock()
	s.mute = !answer
	s.mu.Unlock()
	s.cancel(cause)
	late := s.complainLate(cause.Error(), "any", 0)
	s.wg.Wait()
	late.Stop()
	s.ended = true

	s.mu.Lock()
	fids := s.fids.empty()
	s.mu.Unlock()
	if len(fids) == 0 {
		return
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), s.srv.limits.Hangup, cause)
	defer cancel()
	var wg sync.WaitGroup
	for _, f := range fids {
		if f.node.closesSlowly() {
			wg.Go(func() { s.putAway(ctx, f) })
			continue
		}
		s.c.beginTurn() // there can be thousands
		s.putAway(ctx, f)
	}
	s.c.endTurn()
	wg.Wait()
}

func (s *session) putAway(ctx context.Context, f *fid) {
	if err := s.closeFid(ctx, f); err != nil {
		s.c.log.Debug("closing a file failed after its client left", "err", err)
	}
}
