package qemu

import (
	"context"
	"sync"

	"vmfs/backends/hypervisor"
)

// maxQueuedEvents bounds the events that wait for a consumer who does not
// receive. Beyond it the oldest are dropped.
const maxQueuedEvents = 4096

// An eventQueue is between what follows QEMU, which must never wait, and the
// consumer of the handle's events.
type eventQueue struct {
	ch   chan hypervisor.Event
	wake chan struct{} // gets a token when events or ended change; buffered

	mu     sync.Mutex // guards the fields below
	events []hypervisor.Event
	ended  bool // no more will come
	taken  bool // a goroutine delivers, and closes ch
	closed bool // ch is closed
}

func (q *eventQueue) init() {
	q.ch = make(chan hypervisor.Event)
	q.wake = make(chan struct{}, 1)
}

func (q *eventQueue) push(e hypervisor.Event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended {
		return
	}
	if len(q.events) >= maxQueuedEvents {
		q.events = q.events[1:]
	}
	q.events = append(q.events, e)
	q.notify()
}

// end says that no more events will come. Those that wait are delivered yet.
func (q *eventQueue) end() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ended = true
	q.notify()
}

func (q *eventQueue) notify() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take makes the caller the one who delivers; it returns false if there is one.
func (q *eventQueue) take() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.taken || q.closed {
		return false
	}
	q.taken = true
	return true
}

// deliver sends the events to the channel until they have ended or ctx has, and
// then closes it.
func (q *eventQueue) deliver(ctx context.Context) {
	defer func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.closed = true
		close(q.ch)
	}()
	for {
		q.mu.Lock()
		var e hypervisor.Event
		some, ended := len(q.events) > 0, q.ended
		if some {
			e, q.events = q.events[0], q.events[1:]
		}
		q.mu.Unlock()
		switch {
		case some:
			select {
			case q.ch <- e:
			case <-ctx.Done():
				return
			}
		case ended:
			return
		default:
			select {
			case <-q.wake:
			case <-ctx.Done():
				return
			}
		}
	}
}

// close closes the channel where nobody delivers. What delivers is over.
func (q *eventQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		q.closed = true
		close(q.ch)
	}
}

// Events returns the channel of the VM's events.
func (vm *VM) Events() <-chan hypervisor.Event {
	if vm.queue.take() && !vm.spawn(func() { vm.queue.deliver(vm.ctx) }) {
		vm.queue.close()
	}
	return vm.queue.ch
}
