package qmp

import (
	"context"
	"sync"
)

// maxQueued bounds the events that wait for one subscriber. QEMU limits the
// rate of those that a guest can cause at will, so that it takes a subscriber
// who has long stopped to reach it.
const maxQueued = 4096

// A Subscription is one receiver of a connection's events, with a queue of its
// own.
type Subscription struct {
	conn *Conn
	wake chan struct{} // gets a token when the queue or err changes; buffered

	mu    sync.Mutex // guards the fields below
	queue []Event
	lost  int
	err   error
}

// Subscribe begins to queue the events that come from now on. The events that
// came before are not there: subscribe before Start to have them all.
func (c *Conn) Subscribe() *Subscription {
	s := &Subscription{conn: c, wake: make(chan struct{}, 1)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		s.err = c.err
	} else {
		c.subs[s] = struct{}{}
	}
	return s
}

// Next returns the next event. When the connection has ended it returns those
// that are still queued, and then the connection's error. One goroutine at a
// time may call it.
func (s *Subscription) Next(ctx context.Context) (Event, error) {
	for {
		s.mu.Lock()
		if len(s.queue) > 0 {
			ev := s.queue[0]
			s.queue[0] = Event{}
			s.queue = s.queue[1:]
			s.mu.Unlock()
			return ev, nil
		}
		err := s.err
		s.mu.Unlock()
		if err != nil {
			return Event{}, err
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return Event{}, ctx.Err()
		}
	}
}

// Lost returns how many events were dropped, the oldest first, because nobody
// took them.
func (s *Subscription) Lost() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost
}

// Close ends the subscription: Next returns what is queued and then ErrClosed.
func (s *Subscription) Close() {
	s.conn.mu.Lock()
	delete(s.conn.subs, s)
	s.conn.mu.Unlock()
	s.end(ErrClosed)
}

func (s *Subscription) end(err error) {
	s.mu.Lock()
	if s.err == nil {
		s.err = err
	}
	s.mu.Unlock()
	s.notify()
}

func (s *Subscription) notify() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *Subscription) push(ev Event) {
	s.mu.Lock()
	if len(s.queue) >= maxQueued {
		s.queue = s.queue[1:]
		s.lost++
	}
	s.queue = append(s.queue, ev)
	s.mu.Unlock()
	s.notify()
}

// publish queues an event for every subscriber.
func (c *Conn) publish(ev Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := range c.subs {
		s.push(ev)
	}
}
