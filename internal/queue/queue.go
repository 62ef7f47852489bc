// Package queue is what stands between somebody who tells of things and must never
// wait, and somebody who takes them as fast as he can. It is bounded: of what a slow
// one has not taken the oldest are dropped, and he is told how many.
//
// The package imports the standard library alone.
package queue

import (
	"context"
	"sync"
)

// A Queue is filled by any number of goroutines, and emptied with Next and TryNext, or with
// Chan. Its zero value is not usable: see New.
type Queue[T any] struct {
	most  int
	bytes int         // that all which waits may have, by size; 0 is no bound
	size  func(T) int // nil where bytes is 0
	lost  func(n int, last T) T
	wake  chan struct{} // has a token when who waits should look again
	ended context.Context
	quit  context.CancelFunc // ends ended

	deliver sync.Once
	ch      chan T
	done    chan struct{} // closed when ch is

	mu      sync.Mutex // guards all below
	waiting []T
	held    int // bytes of waiting
	dropped int
	last    T     // the last one dropped
	err     error // no more will come: what is told after all that waits
}

// New makes a queue in which most elements can wait. Where some were dropped, what
// lost makes of their number and the last of them comes in their place.
func New[T any](most int, lost func(n int, last T) T) *Queue[T] {
	q := &Queue[T]{most: most, lost: lost, wake: make(chan struct{}, 1), ch: make(chan T), done: make(chan struct{})}
	q.ended, q.quit = context.WithCancel(context.Background())
	return q
}

// NewSized is New, with a bound of bytes besides, for elements of somebody who is not
// trusted: size says how many one has. One that has more than that by itself is dropped.
func NewSized[T any](most, bytes int, size func(T) int, lost func(n int, last T) T) *Queue[T] {
	q := New(most, lost)
	q.bytes, q.size = bytes, size
	return q
}

// Put adds an element. It never waits. After End it does nothing.
func (q *Queue[T]) Put(v T) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err != nil {
		return
	}
	n := 0
	if q.size != nil {
		n = q.size(v)
	}
	for len(q.waiting) > 0 && (len(q.waiting) >= q.most || q.bytes > 0 && q.held+n > q.bytes) {
		q.drop(q.waiting[0])
		q.pop()
	}
	if q.bytes > 0 && n > q.bytes {
		q.drop(v)
	} else {
		q.waiting = append(q.waiting, v)
		q.held += n
	}
	q.nudge()
}

// End says that no more will come: when all that waits has been taken, Next returns
// err. A second End does nothing.
func (q *Queue[T]) End(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err == nil {
		q.err = err
	}
	q.nudge()
}

// Close is End, and drops what waits. Chan's channel is closed when it returns.
func (q *Queue[T]) Close(err error) {
	q.mu.Lock()
	q.waiting, q.held, q.dropped = nil, 0, 0
	q.mu.Unlock()
	q.End(err)
	q.quit()
	q.deliver.Do(q.shut)
	<-q.done
}

// drop counts an element that nobody gets. q.mu is held.
func (q *Queue[T]) drop(v T) {
	q.last = v
	q.dropped++
}

// pop forgets the first element. q.mu is held.
func (q *Queue[T]) pop() {
	var none T
	if q.size != nil {
		q.held -= q.size(q.waiting[0])
	}
	q.waiting[0] = none
	if q.waiting = q.waiting[1:]; len(q.waiting) == 0 {
		q.waiting = nil
	}
}

func (q *Queue[T]) nudge() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take returns the next element, or why there will be none, or neither.
func (q *Queue[T]) take() (v T, ok bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.dropped > 0:
		v = q.lost(q.dropped, q.last)
		q.dropped = 0
		return v, true, nil
	case len(q.waiting) > 0:
		v = q.waiting[0]
		q.pop()
		return v, true, nil
	}
	return v, false, q.err
}

// TryNext returns the next element if there is one.
func (q *Queue[T]) TryNext() (T, bool) {
	v, ok, _ := q.take()
	return v, ok
}

// Next waits for the next element. It returns End's error when there are no more, or
// the cause of ctx when that ends before.
func (q *Queue[T]) Next(ctx context.Context) (T, error) {
	for {
		v, ok, err := q.take()
		if ok {
			return v, nil
		}
		if err != nil {
			q.nudge() // for another Next that waits
			return v, err
		}
		select {
		case <-q.wake:
		case <-ctx.Done():
			return v, context.Cause(ctx)
		}
	}
}

// Chan returns a channel of the elements, which is closed after the last, or by
// Close. Its first call starts the goroutine that fills it. Without Close somebody
// must take from it to the end.
func (q *Queue[T]) Chan() <-chan T {
	q.deliver.Do(func() {
		go func() {
			defer q.shut()
			for {
				v, err := q.Next(q.ended)
				if err != nil {
					return
				}
				select {
				case q.ch <- v:
				case <-q.ended.Done():
					return
				}
			}
		}()
	})
	return q.ch
}

func (q *Queue[T]) shut() {
	close(q.ch)
	close(q.done)
}
