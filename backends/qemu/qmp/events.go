package qmp

import (
	"context"

	"vmfs/internal/queue"
)

// maxQueued bounds the events that wait for one subscriber. QEMU limits the
// rate of those that a guest can cause at will, so that it takes a subscriber
// who has long stopped to reach it.
const maxQueued = 4096

// maxQueuedBytes bounds the memory of those, whatever the monitor sends.
const maxQueuedBytes = 4 << 20

// sizeOf is about how many bytes of memory an event has.
func sizeOf(ev Event) int { return 128 + len(ev.Event) + sizeOfValue(ev.Data) }

// sizeOfValue is about how many bytes of memory what JSON was read into has.
func sizeOfValue(v any) int {
	switch v := v.(type) {
	case string:
		return 16 + len(v)
	case []any:
		n := 24 + 16*len(v)
		for _, e := range v {
			n += sizeOfValue(e)
		}
		return n
	case map[string]any:
		n := 48
		for k, e := range v {
			n += 64 + len(k) + sizeOfValue(e)
		}
		return n
	default:
		return 16
	}
}

// EventLost is the name of an event that is none of QEMU's: it comes in the place of
// those that were dropped because nobody took them. Its data has their number, "n".
const EventLost = "VMFS_EVENTS_LOST"

// A Subscription is one receiver of a connection's events, with a queue of its
// own.
type Subscription struct {
	conn  *Conn
	queue *queue.Queue[Event]
}

// Subscribe begins to queue the events that come from now on. The events that
// came before are not there: subscribe before Start to have them all.
func (c *Conn) Subscribe() *Subscription {
	s := &Subscription{conn: c, queue: queue.NewSized(maxQueued, maxQueuedBytes, sizeOf, func(n int, last Event) Event {
		return Event{Event: EventLost, Data: map[string]any{"n": n}, Timestamp: last.Timestamp}
	})}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		s.queue.End(c.err)
	} else {
		c.subs[s] = struct{}{}
	}
	return s
}

// Next returns the next event. When the connection has ended it returns those
// that are still queued, and then the connection's error.
func (s *Subscription) Next(ctx context.Context) (Event, error) { return s.queue.Next(ctx) }

// Close ends the subscription: Next returns what is queued and then ErrClosed.
func (s *Subscription) Close() {
	s.conn.mu.Lock()
	delete(s.conn.subs, s)
	s.conn.mu.Unlock()
	s.queue.End(ErrClosed)
}

// publish queues an event for every subscriber.
func (c *Conn) publish(ev Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := range c.subs {
		s.queue.Put(ev)
	}
}
