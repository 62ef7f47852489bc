package shim

import (
	"context"
	"strconv"
	"sync"
	"time"

	"vmfs/backends/vz/shimapi"
)

// ringSize is how many events are kept for a server that comes back.
const ringSize = 1024

// A ring keeps the last events.
type ring struct {
	mu      sync.Mutex // guards the fields below
	events  []shimapi.Event
	seq     uint64        // of the last one
	changed chan struct{} // closed and replaced with each event
}

func newRing() *ring { return &ring{changed: make(chan struct{})} }

// put numbers an event and keeps it.
func (r *ring) put(e shimapi.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seq++
	e.Seq, e.Time = r.seq, time.Now()
	if len(r.events) == ringSize {
		r.events = append(r.events[:0], r.events[1:]...)
	}
	r.events = append(r.events, e)
	close(r.changed)
	r.changed = make(chan struct{})
}

// last is the number of the last event.
func (r *ring) last() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seq
}

// behind returns the events behind a number, the first of them being an EventLost where
// some are forgotten, or what is closed when there are some.
func (r *ring) behind(seq uint64) ([]shimapi.Event, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if seq >= r.seq {
		return nil, r.changed
	}
	var events []shimapi.Event
	first := r.events[0].Seq
	if seq+1 < first {
		events = append(events, shimapi.Event{
			Seq: first - 1, Time: r.events[0].Time, Kind: shimapi.EventLost,
			Detail: strconv.FormatUint(first-1-seq, 10),
		})
		seq = first - 1
	}
	return append(events, r.events[seq+1-first:]...), nil
}

// each calls f with the events behind a number, until it fails or ctx has ended and there
// are no more.
func (r *ring) each(ctx context.Context, seq uint64, f func(shimapi.Event) error) {
	for {
		events, more := r.behind(seq)
		for _, e := range events {
			if f(e) != nil {
				return
			}
			seq = e.Seq
		}
		if len(events) > 0 {
			continue
		}
		select {
		case <-more:
		case <-ctx.Done():
			if r.last() == seq {
				return
			}
		}
	}
}
