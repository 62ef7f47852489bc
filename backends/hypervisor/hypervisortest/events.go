package hypervisortest

import (
	"slices"
	"sync"
	"time"

	"vmfs/backends/hypervisor"
)

// eventLog consumes a handle's events and keeps them.
type eventLog struct {
	mu      sync.Mutex // guards all below
	events  []hypervisor.Event
	over    bool          // the channel was closed
	changed chan struct{} // closed and replaced at every change

	done chan struct{} // closed when the consumer ends
	quit chan struct{} // tells it to
}

func follow(events <-chan hypervisor.Event) *eventLog {
	l := &eventLog{changed: make(chan struct{}), done: make(chan struct{}), quit: make(chan struct{})}
	go func() {
		defer close(l.done)
		for {
			select {
			case e, ok := <-events:
				l.add(e, ok)
				if !ok {
					return
				}
			case <-l.quit:
				return
			}
		}
	}()
	return l
}

func (l *eventLog) add(e hypervisor.Event, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ok {
		l.events = append(l.events, e)
	} else {
		l.over = true
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

// abandon ends the consumer, after a time in which the channel may be closed.
func (l *eventLog) abandon(d time.Duration) {
	if !l.closedWithin(d) {
		close(l.quit)
	}
	<-l.done
}

func (l *eventLog) all() []hypervisor.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.events)
}

// until waits until ok, which is called with l.mu held, says so.
func (l *eventLog) until(d time.Duration, ok func() bool) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		l.mu.Lock()
		is, changed := ok(), l.changed
		l.mu.Unlock()
		if is {
			return true
		}
		select {
		case <-changed:
		case <-timer.C:
			return false
		}
	}
}

func (l *eventLog) closedWithin(d time.Duration) bool {
	return l.until(d, func() bool { return l.over })
}

// await waits for an event of a kind behind the mark.
func (l *eventLog) await(d time.Duration, mark int, kind hypervisor.EventKind) (hypervisor.Event, bool) {
	var found hypervisor.Event
	ok := l.until(d, func() bool {
		for _, e := range l.events[mark:] {
			if e.Kind == kind {
				found = e
				return true
			}
		}
		return false
	})
	return found, ok
}

// awaitState waits until the last state that an event told is want. With no such
// event yet, as on a new handle, there is nothing to disagree.
func (l *eventLog) awaitState(d time.Duration, want hypervisor.VMState) (hypervisor.Event, bool) {
	var last hypervisor.Event
	ok := l.until(d, func() bool {
		last = hypervisor.Event{}
		for _, e := range l.events {
			if e.State != "" {
				last = e
			}
		}
		return last.State == "" || last.State == want
	})
	return last, ok
}
