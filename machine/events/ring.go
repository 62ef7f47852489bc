package events

import (
	"container/list"
	"strconv"
	"sync"

	"vmfs/backends/hypervisor"
)

const (
	// MaxWaiting is how many events wait at most for a slow subscriber before the
	// oldest are lost to it, and ringBytes how many bytes of them.
	MaxWaiting = 1024
	ringBytes  = 512 << 10
	// The rings of a Room hold roomBytes together: the more there are the less each
	// has, but for ReaderBytes, which a subscriber is to be charged with.
	roomBytes   = 64 << 20
	ReaderBytes = 16 << 10
)

// A ring holds the last events of one audience, whose readers each have a place in it.
// Those who wait are woken one by the other, so that it is not the publisher who wakes
// them all.
type ring struct {
	name    string
	may     func(Event) bool
	room    *Room // nil: it has all the room there is
	readers int   // guarded by Feed.mu

	mu      sync.Mutex // guards what follows
	events  []*Event
	first   uint64 // the place of events[0]
	bytes   int
	evicted *Event    // the last that was lost to who has not read it
	waiters list.List // of *waiter, who came first at the front; all who wait are at the end of events
	ended   error     // no more will come
}

// A waiter is a subscription that waits in its ring.
type waiter struct {
	at    uint64 // what it waits for
	wake  chan struct{}
	woken bool
}

// take counts the ring among those of its room, or not any more.
func (r *ring) take(n int64) {
	if r.room != nil {
		r.room.rings.Add(n)
	}
}

// most is how many bytes the ring may hold.
func (r *ring) most() int {
	if r.room == nil {
		return ringBytes
	}
	return min(ringBytes, max(ReaderBytes, roomBytes/int(max(r.room.rings.Load(), 1))))
}

func (r *ring) put(e *Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended != nil {
		return
	}
	r.events = append(r.events, e)
	r.bytes += e.size()
	for most := r.most(); len(r.events) > MaxWaiting || r.bytes > most && len(r.events) > 1; {
		r.evicted = r.events[0]
		r.bytes -= r.evicted.size()
		r.events[0] = nil
		r.events = r.events[1:]
		r.first++
	}
	r.wakeFirst()
}

func (r *ring) end(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = err
	r.wakeFirst()
}

// next is the place after the last event. mu is held.
func (r *ring) next() uint64 { return r.first + uint64(len(r.events)) }

// wakeFirst wakes the first of those who wait, if there is something for it. mu is
// held.
func (r *ring) wakeFirst() {
	e := r.waiters.Front()
	if e == nil {
		return
	}
	if w := e.Value.(*waiter); !w.woken && (w.at < r.next() || r.ended != nil) {
		w.woken = true
		close(w.wake)
	}
}

// read returns what is at a place and the place after it, or why there will be
// nothing, or neither. mu is held.
func (r *ring) read(at uint64) (e Event, next uint64, ok bool, err error) {
	switch {
	case at < r.first:
		return lostEvents(r.first-at, *r.evicted), r.first, true, nil
	case at < r.next():
		return *r.events[at-r.first], at + 1, true, nil
	}
	return Event{}, at, false, r.ended
}

// lostEvents stands for n events, of which last was the last.
func lostEvents(n uint64, last Event) Event {
	return Event{
		Seq: last.Seq, Time: last.Time, VM: last.VM, Kind: KindLost, Owner: last.Owner,
		Detail: []hypervisor.Detail{{Key: "n", Value: strconv.FormatUint(n, 10)}},
	}
}

// eventCost is what an event takes beside its words, about.
const eventCost = 256

// size is how many bytes the event takes, about.
func (e *Event) size() int {
	n := eventCost + len(e.VM) + len(e.Kind) + len(e.Reason)
	for _, d := range e.Detail {
		n += 32 + len(d.Key) + len(d.Value)
	}
	return n
}
