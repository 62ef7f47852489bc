package sim

import (
	"sync"

	"vmfs/backends/hypervisor"
)

// eventQueue is the events of one handle. Events go straight into the channel
// while it has room; a consumer that is slower than that costs a goroutine until
// it has caught up.
type eventQueue struct {
	ch   chan hypervisor.Event
	quit chan struct{} // closed when the handle is

	mu      *sync.Mutex // the VM's; guards all below
	backlog []hypervisor.Event
	pumping bool // a goroutine owns ch
	over    bool // no more events: whoever owns ch closes it
	pumps   sync.WaitGroup
}

const eventRoom = 16

func (q *eventQueue) init(mu *sync.Mutex) {
	q.ch = make(chan hypervisor.Event, eventRoom)
	q.quit = make(chan struct{})
	q.mu = mu
}

// put adds an event. q.mu is held.
func (q *eventQueue) put(e hypervisor.Event) {
	if q.over {
		return
	}
	if !q.pumping {
		select {
		case q.ch <- e:
			return
		default:
		}
		q.pumping = true
		q.pumps.Go(q.pump)
	}
	q.backlog = append(q.backlog, e)
}

// end closes the channel behind the last event. q.mu is held.
func (q *eventQueue) end() {
	if q.over {
		return
	}
	q.over = true
	if !q.pumping {
		close(q.ch)
	}
}

func (q *eventQueue) pump() {
	for {
		q.mu.Lock()
		if len(q.backlog) == 0 {
			q.pumping, q.backlog = false, nil
			if q.over {
				close(q.ch)
			}
			q.mu.Unlock()
			return
		}
		e := q.backlog[0]
		q.backlog = q.backlog[1:]
		q.mu.Unlock()
		select {
		case q.ch <- e:
		case <-q.quit:
			q.mu.Lock()
			q.backlog = nil
			q.mu.Unlock()
		}
	}
}
