package events

import (
	"container/list"
	"context"
	"io"
)

// A Subscription is one reader of a Feed. It holds its place among the events, and
// no event.
type Subscription struct {
	feed *Feed
	ring *ring

	// Guarded by ring.mu.
	at     uint64
	waits  *list.Element // in ring.waiters, while Next waits
	closed bool
}

func newSubscription(f *Feed, r *ring) *Subscription {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &Subscription{feed: f, ring: r, at: r.next()}
}

// take returns the next event, or why there will be none, or else what will be closed
// when it should look again.
func (s *Subscription) take(wait bool) (e Event, ok bool, wake <-chan struct{}, err error) {
	r := s.ring
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.closed {
		return e, false, nil, io.EOF
	}
	s.stopWaiting()
	e, s.at, ok, err = r.read(s.at)
	if ok || err != nil || !wait {
		return e, ok, nil, err
	}
	w := &waiter{at: s.at, wake: make(chan struct{})}
	s.waits = r.waiters.PushBack(w)
	return e, false, w.wake, nil
}

// stopWaiting takes the subscription from those who wait, and sees to it that the
// next of them is woken if this one was. ring.mu is held.
func (s *Subscription) stopWaiting() {
	if s.waits == nil {
		return
	}
	s.ring.waiters.Remove(s.waits)
	s.waits = nil
	s.ring.wakeFirst()
}

// TryNext returns the next event if there is one.
func (s *Subscription) TryNext() (Event, bool) {
	e, ok, _, _ := s.take(false)
	return e, ok
}

// Next waits for the next event. A subscriber that was so slow that its next events
// are not kept any more gets an event of KindLost first, whose detail n says how many
// it missed. When the VM is deleted, the Host closed or the subscription closed, it
// returns io.EOF after what is there. Calls of Next come one at a time.
func (s *Subscription) Next(ctx context.Context) (Event, error) {
	for {
		e, ok, wake, err := s.take(true)
		if ok || err != nil {
			return e, err
		}
		select {
		case <-wake:
		case <-ctx.Done():
			s.ring.mu.Lock()
			s.stopWaiting()
			s.ring.mu.Unlock()
			return e, context.Cause(ctx)
		}
	}
}

// Close ends the subscription, and a Next that waits.
func (s *Subscription) Close() {
	r := s.ring
	r.mu.Lock()
	if s.closed {
		r.mu.Unlock()
		return
	}
	s.closed = true
	if s.waits != nil {
		if w := s.waits.Value.(*waiter); !w.woken {
			w.woken = true
			close(w.wake)
		}
		s.stopWaiting()
	}
	r.mu.Unlock()
	s.feed.leave(r)
}
