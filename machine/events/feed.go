package events

import (
	"io"
	"sync"
	"sync/atomic"
)

// A Feed hands events to any number of subscribers. Publishing never waits, and
// costs the same for one subscriber as for many: those of one audience share a ring.
type Feed struct {
	// Room is what feeds share that are bounded together; nil is room of its own.
	Room *Room

	mu     sync.RWMutex // guards what follows; before ring.mu
	rings  map[string]*ring
	closed bool
}

// A Room bounds what the rings of several feeds hold together. Its zero value is ready
// for use.
type Room struct{ rings atomic.Int64 }

// An Audience is all who may see the same events.
type Audience struct {
	// Name tells one audience of a feed from another. All with one name have the
	// same May.
	Name string
	// May reports of each event, when it is published, whether the audience may see
	// it; nil is all of them.
	May func(Event) bool
}

// Subscribe begins a subscription with the next event, for the program itself: what
// clients subscribe to leaves its ring its room. The caller closes it.
func (f *Feed) Subscribe() *Subscription { return f.subscribe("", nil, nil) }

// SubscribeAs begins a subscription with the next event that the audience may see.
// Events that it may not see never reach it, and it is not told that they were there.
func (f *Feed) SubscribeAs(a Audience) *Subscription {
	room := f.Room
	if room == nil {
		room = new(Room)
	}
	return f.subscribe("as "+a.Name, a.May, room)
}

func (f *Feed) subscribe(name string, may func(Event) bool, room *Room) *Subscription {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.rings[name]
	if r == nil {
		r = &ring{name: name, may: may, room: room}
		if f.closed {
			r.end(io.EOF)
		} else {
			if f.rings == nil {
				f.rings = make(map[string]*ring)
			}
			f.rings[name] = r
			r.take(1)
		}
	}
	r.readers++
	return newSubscription(f, r)
}

// Publish tells every audience that may see the event.
func (f *Feed) Publish(e Event) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	for _, r := range f.rings {
		if r.may == nil || r.may(e) {
			r.put(&e)
		}
	}
}

// Close ends every subscription once it has read what is there.
func (f *Feed) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for _, r := range f.rings {
		r.end(io.EOF)
	}
}

// leave is for a subscription that was closed: a ring goes with its last reader.
func (f *Feed) leave(r *ring) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.readers--; r.readers == 0 && f.rings[r.name] == r {
		delete(f.rings, r.name)
		r.take(-1)
	}
}
