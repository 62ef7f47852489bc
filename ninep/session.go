package ninep

import (
	"context"
	"errors"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"
)

// session is what lasts from one Tversion to the next: the dialect, the fids,
// and the requests under way.
type session struct {
	c       *conn
	srv     *Server
	dialect dialect
	google  bool // 9P2000.L.Google.N: p9's client, which expects p9's ways
	table   *messageTable
	msize   uint32

	ctx    context.Context // of its requests
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup // goroutines of its requests

	blocked atomic.Int32 // len(tags) is not 0

	mu      sync.Mutex // guards what follows, and what fid and async mark
	fids    fidTable
	tags    map[uint16]*request // requests under way, and Tflushes that wait for them
	running int                 // requests under way
	held    int                 // bytes that they hold
	mute    bool                // answer nothing more
}

// What running a request can give beside an error of the request.
var (
	errLater   = errors.New("the answer comes later")
	errReplied = errors.New("the answer is written")
)

func newSession(c *conn, d dialect, msize uint32) *session {
	s := &session{c: c, srv: c.srv, dialect: d, msize: msize, table: &tableL}
	if d&dialectLegacy != 0 {
		s.table = &tableLegacy
	}
	s.fids.share = c.share
	s.google = d&(dialectG2|dialectG3) != 0
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	return s
}

// is reports whether the session's dialect is one of those.
func (s *session) is(d dialect) bool { return s.dialect&d != 0 }

// isLinux reports whether the client is one that takes a QID's version for a
// promise.
func (s *session) isLinux() bool { return s.dialect == dialectL && !s.google }

// fillsReads reports whether the client is one that fills a read(2) with several
// Treads before its reader sees any of it: Linux, which is as good as alone in
// speaking these two dialects.
func (s *session) fillsReads() bool { return s.isLinux() || s.is(dialectU) }

// sent is a QID as this client sees it.
func (s *session) sent(q p9.QID) p9.QID {
	switch {
	case s.isLinux():
		q.Version = 0 // "do not cache"
	case s.is(dialect9P):
		q.Type &^= p9.TypeSymlink | p9.TypeLink // which it does not know
	}
	return q
}

// handle decodes, runs and answers a request. errLater and errReplied mean
// that nothing is left to do.
func (s *session) handle(r *request, d *dec) error {
	m := &s.table[r.typ]
	if m.in&s.dialect == 0 {
		s.c.complain("unknown message", "type", r.typ)
		return fault(linux.EOPNOTSUPP, "unknown message")
	}
	r.m, r.f, r.f2, r.data, r.stat = m, nil, nil, nil, nil
	if s.blocked.Load() != 0 && r.typ != msgTflush && s.tagInUse(r.tag) {
		s.c.complain("duplicate tag", "tag", r.tag)
		return errDupTag
	}
	m.decode(r, d)
	if !d.ok() {
		s.c.complain("malformed message", "type", m.name)
		return fault(linux.EBADMSG, "malformed "+m.name)
	}
	if err := s.run(r); err != nil {
		if err == errFids || err == errRequests {
			s.c.complain(err.Error(), "fids", s.srv.limits.Fids, "requests", s.srv.limits.Requests, "bytes", s.srv.limits.Held)
		}
		return err
	}
	s.c.reply(r)
	return nil
}

func (s *session) run(r *request) (err error) {
	defer s.recovered(r.m.name, &err)
	return r.m.run(r)
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

// encodeError writes an error reply; s may be nil before there is a session.
func (s *session) encodeError(e *enc, tag uint16, err error) {
	if s != nil && s.is(dialectL) {
		start := e.begin(msgRlerror, tag)
		e.u32(uint32(errnoOf(err)))
		e.end(start)
		return
	}
	limit := minMsize // before there is a session, what every client has room for
	if s != nil {
		limit = int(s.msize)
	}
	start := e.begin(msgRerror, tag)
	e.str(cutText(textOf(err), limit-headerSize-2-4))
	if s != nil && s.is(dialectU) {
		e.u32(uint32(errnoOf(err)))
	}
	e.end(start)
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
		s.putAway(ctx, f)
	}
	wg.Wait()
}

func (s *session) putAway(ctx context.Context, f *fid) {
	if err := s.closeFid(ctx, f); err != nil {
		s.c.log.Debug("close after hang-up failed", "err", err)
	}
}
