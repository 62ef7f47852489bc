package events

import (
	"context"
	"io"
	"strconv"
	"sync"

	"vmfs/backends/hypervisor"
	"vmfs/internal/queue"
)

// maxQueue is how many events wait for one subscriber before it loses some.
const maxQueue = 1024

// A Feed hands events to any number of subscribers. Publishing never waits.
type Feed struct {
	mu     sync.Mutex // guards subs, closed
	subs   map[*Subscription]struct{}
	closed bool
}

// Subscribe begins a subscription with the next event. The caller closes it.
func (f *Feed) Subscribe() *Subscription {
	s := &Subscription{feed: f, queue: queue.New(maxQueue, lostEvents)}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		s.queue.End(io.EOF)
		return s
	}
	if f.subs == nil {
		f.subs = make(map[*Subscription]struct{})
	}
	f.subs[s] = struct{}{}
	return s
}

// Publish tells every subscriber.
func (f *Feed) Publish(e Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for s := range f.subs {
		s.queue.Put(e)
	}
}

// Close ends every subscription once its queue has been read.
func (f *Feed) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for s := range f.subs {
		s.queue.End(io.EOF)
	}
	f.subs = nil
}

// A Subscription is one reader of a Feed.
type Subscription struct {
	feed  *Feed
	queue *queue.Queue[Event]
}

// lostEvents stands for n events, of which last was the last.
func lostEvents(n int, last Event) Event {
	return Event{Seq: last.Seq, Time: last.Time, VM: last.VM, Kind: KindLost, Detail: []hypervisor.Detail{{Key: "n", Value: strconv.Itoa(n)}}}
}

// TryNext returns the next event if there is one.
func (s *Subscription) TryNext() (Event, bool) { return s.queue.TryNext() }

// Next waits for the next event. A subscriber that was so slow that its queue
// ran over gets an event of KindLost first, whose detail n says how many it
// missed. When the VM is deleted, the Host closed or the subscription closed, it
// returns io.EOF after what is queued.
func (s *Subscription) Next(ctx context.Context) (Event, error) { return s.queue.Next(ctx) }

// Close ends the subscription, and a Next that waits.
func (s *Subscription) Close() {
	s.feed.mu.Lock()
	delete(s.feed.subs, s)
	s.feed.mu.Unlock()
	s.queue.Close(io.EOF)
}
