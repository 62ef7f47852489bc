package ninep

import (
	"context"
	"runtime"
	"slices"
	"time"

	"vmfs/ninep/wire"
)

// lane is a queue of requests that go one after the other: the reads of a fid,
// or its writes. Clients that send several at once mean them in that order.
// session.mu guards it.
type lane struct {
	busy    bool
	waiting []*request
}

// next takes the first of those that wait, or leaves the lane free.
func (l *lane) next() *request {
	if l.busy = len(l.waiting) > 0; !l.busy {
		l.waiting = nil
		return nil
	}
	r := l.waiting[0]
	l.waiting[0] = nil
	l.waiting = l.waiting[1:]
	return r
}

// later carries a request out in a goroutine of its own: when its lane is free,
// if it has one, else at once. It is for the reading goroutine and gives
// errLater, or why the request cannot be.
func (s *session) later(r *request, ln *lane, exec func(context.Context, *request) error) error {
	return s.laterOr(r, ln, exec, nil)
}

// laterOr is later for a request that has reserved something: where exec is not
// called, since there is no room for the request or it is not wanted any more
// when its turn comes, undo is.
func (s *session) laterOr(r *request, ln *lane, exec func(context.Context, *request) error, undo func(*request)) error {
	ar := s.detach(r, exec)
	ar.lane, ar.undo = ln, undo
	s.mu.Lock()
	if err := s.admit(ar); err != nil {
		s.mu.Unlock()
		ar.cancel(nil)
		ar.buf.free()
		if undo != nil {
			undo(ar)
		}
		return err
	}
	if ar.f != nil {
		ar.f.busy++
	}
	if ln != nil && ln.busy {
		ln.waiting = append(ln.waiting, ar)
		s.mu.Unlock()
		return errLater
	}
	if ln != nil {
		ln.busy = true
	}
	s.start(ar)
	s.mu.Unlock()
	s.c.began++
	return errLater
}

// detach makes a copy of a request that outlives the message it came in.
func (s *session) detach(r *request, exec func(context.Context, *request) error) *request {
	ar := new(request)
	*ar = *r
	ar.Names, ar.QIDs, ar.Attr, ar.FSStat, ar.async = nil, nil, nil, nil, async{exec: exec}
	if len(r.Data) > 0 {
		ar.buf = getBuf(len(r.Data))
		ar.buf.b = append(ar.buf.b, r.Data...)
		ar.Data = ar.buf.b
	}
	ar.ctx, ar.cancel = context.WithCancelCause(s.ctx)
	return ar
}

// admit enters a request among those under way, if there is room. s.mu is held.
func (s *session) admit(ar *request) error {
	held := 0
	switch {
	case ar.Type == wire.Tread:
		held = bufCost(wire.DataHeader + int(ar.Length))
	case ar.buf != nil:
		held = cap(ar.buf.b)
	}
	if s.running >= s.srv.limits.Requests || !s.c.share.hold(requestCost) {
		return errRequests
	}
	if !s.hold(held) {
		s.c.share.letGo(requestCost)
		return errRequests
	}
	ar.held, ar.cost = held, requestCost
	s.running++
	s.enter(ar.Tag, ar)
	return nil
}

// hold counts bytes that the connection holds until letGoOf, if there is room
// for them. s.mu is held, for both.
func (s *session) hold(n int) bool {
	if s.held+n > s.srv.limits.Held || !s.c.share.hold(n) {
		return false
	}
	s.held += n
	return true
}

// holdFor makes what is held for something, which is in held, n bytes.
func (s *session) holdFor(held *int, n int) error {
	if n == *held {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.letGoOf(*held)
	*held = 0
	if !s.hold(n) {
		return errRequests
	}
	*held = n
	return nil
}

func (s *session) letGoOf(n int) {
	s.held -= n
	s.c.share.letGo(n)
}

// leastShare is what each of the requests that may be blocked can hold at least.
const leastShare = 4 << 10

// share is how many bytes one more request may hold: a small part of what is left
// by the others, so that many can wait at once, and none is refused for what the
// others of its connection hold. It is for the reading goroutine, as what is left
// only grows meanwhile.
func (s *session) share() int {
	limits := &s.srv.limits
	s.mu.Lock()
	defer s.mu.Unlock()
	left := limits.Held - s.held - leastShare*(limits.Requests-s.running)
	left = min(left, s.c.share.left())
	return max(leastShare, left/256)
}

func (s *session) enter(tag uint16, ar *request) {
	if s.tags == nil {
		s.tags = make(map[uint16]*request)
	}
	s.tags[tag] = ar
	s.blocked.Store(int32(len(s.tags)))
}

func (s *session) leave(tag uint16, ar *request) {
	if s.tags[tag] == ar {
		delete(s.tags, tag)
		s.blocked.Store(int32(len(s.tags)))
	}
}

// start runs a request and those that wait for it. s.mu is held.
func (s *session) start(ar *request) {
	ar.started = true
	s.wg.Go(func() {
		for ar != nil {
			ar = s.finish(ar, s.runLater(ar))
		}
	})
}

func (s *session) runLater(ar *request) (err error) {
	defer s.recovered(ar.kind(), &err)
	if ar.ctx.Err() != nil && ar.Type != wire.Tclunk && ar.Type != wire.Tremove {
		if ar.undo != nil {
			ar.undo(ar)
		}
		return context.Cause(ar.ctx)
	}
	return ar.exec(ar.ctx, ar)
}

// finish answers a request and the Tflushes of it, and gives the next of its
// lane, which is then the caller's to run.
func (s *session) finish(ar *request, err error) *request {
	if err != nil && ar.ctx.Err() != nil {
		err = context.Cause(ar.ctx)
	}
	ar.cancel(nil)
	b := s.answer(ar, err)

	s.mu.Lock()
	if ar.late != nil {
		ar.late.Stop()
	}
	s.running--
	s.letGoOf(ar.held)
	s.c.share.letGo(ar.cost)
	s.leave(ar.Tag, ar)
	if len(ar.flushes) > 0 {
		b = b.grow(len(ar.flushes) * wire.HeaderSize)
		for _, tag := range ar.flushes {
			s.leave(tag, ar)
			b.b = b.b[:len(b.b)+wire.HeaderSize]
			wire.PutHeader(b.b[len(b.b)-wire.HeaderSize:], wire.Rflush, tag)
		}
	}
	next := s.letGo(ar)
	others := s.running > 0
	var write bool
	if s.mute {
		b.free()
	} else {
		// Within s.mu, so that a Tflush that finds the request gone is
		// answered after it.
		write = s.c.out.add(b)
	}
	s.mu.Unlock()
	if write {
		if others {
			// Those that came together end about together: let them add
			// their replies to the write.
			runtime.Gosched()
			b = s.c.out.gather(b)
		}
		s.c.out.write(b)
	}
	return next
}

// letGo lets go of a request's fid and lane. s.mu is held.
func (s *session) letGo(ar *request) (next *request) {
	if ar.started && ar.lane != nil {
		if next = ar.lane.next(); next != nil {
			next.started = true
		}
	}
	if f := ar.f; f != nil && f.closing != ar {
		if f.busy--; f.busy == 0 && f.closing != nil {
			s.start(f.closing)
		}
	}
	return next
}

// answer writes a request's results, or its error.
func (s *session) answer(ar *request, err error) *buf {
	if err == nil && ar.Type == wire.Tread && ar.buf != nil {
		b := ar.buf // the data is where it belongs
		ar.buf = nil
		b.b = b.b[:wire.DataHeader+ar.got]
		wire.PutDataHeader(b.b, wire.Rread, ar.Tag)
		return b
	}
	ar.buf.free()
	ar.buf = nil
	b := getBuf(512)
	b.b = ar.appendReply(&wire.Codec{Dialect: s.dialect}, b.b, err)
	return b
}

// runFlush answers a Tflush when the request it names is answered, or at once
// if there is none.
func runFlush(r *request) error {
	s := r.s
	s.mu.Lock()
	ar := s.tags[uint16(r.Count)]
	if ar == nil || len(ar.flushes) >= maxFlushes {
		s.mu.Unlock()
		return nil
	}
	ar.flushes = append(ar.flushes, r.Tag)
	if s.tags[r.Tag] == nil {
		s.enter(r.Tag, ar)
	}
	if ar.late == nil {
		ar.late = s.complainLate("flushed", ar.kind(), ar.Fid)
	}
	waiting := !ar.started && ar.lane != nil
	if waiting {
		i := slices.Index(ar.lane.waiting, ar)
		ar.lane.waiting = slices.Delete(ar.lane.waiting, i, i+1)
	}
	var before []*request // of which a Tclunk or Tremove waits to be over
	if ar.f != nil && ar.f.closing == ar && !ar.started {
		before = s.underWay(ar.f)
	}
	s.mu.Unlock()
	ar.cancel(errFlushed)
	for _, q := range before {
		q.cancel(errClunked)
	}
	if waiting {
		s.finish(ar, errFlushed)
	}
	return errLater
}

// lateAfter is how long a file may take to notice that its request is not
// wanted before the log says so: the client, and its user, wait for it.
const lateAfter = 5 * time.Second

func (s *session) complainLate(why, request string, fid uint32) *time.Timer {
	return time.AfterFunc(lateAfter, func() {
		s.c.log.Warn("a request that was cancelled goes on", "request", request, "fid", fid, "cause", why, "after", lateAfter)
	})
}

// maxFlushes bounds what a client that flushes the same tag again and again
// can pile up; no client in its right mind needs more than a few.
const maxFlushes = 256
