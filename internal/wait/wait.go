// Package wait is how vmfs waits where no event tells when to look again: for a
// while, until something holds, or between the attempts at something, and never
// beyond a context, which can be made to end other waits too. It imports the standard library alone.
package wait

import (
	"context"
	"time"
)

// For waits for d, or returns the cause of ctx when that ends before.
func For(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Until asks done every so often until it says true or fails, or ctx ends, whose
// cause is returned then. The first question comes at once.
func Until(ctx context.Context, every time.Duration, done func() (bool, error)) error {
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		if err := For(ctx, every); err != nil {
			return err
		}
	}
}

// Interrupt runs f when ctx ends, to wake a call that knows no contexts. The function
// returned ends that: f is not running any more when it returns, and will not. It says
// whether f has run, and is to be called once.
func Interrupt(ctx context.Context, f func()) (stop func() (ran bool)) {
	done := make(chan struct{})
	cancel := context.AfterFunc(ctx, func() {
		defer close(done)
		f()
	})
	return func() bool {
		if cancel() {
			return false
		}
		<-done
		return true
	}
}

// While returns a context that ends with ctx, and when done is closed.
func While(ctx context.Context, done <-chan struct{}) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	over := make(chan struct{})
	go func() { // ends with the context
		defer close(over)
		select {
		case <-done:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(); <-over }
}

// A Backoff says how long to wait before the next attempt: First, and twice as long
// after each one, up to Most. It is for one goroutine.
type Backoff struct {
	First, Most time.Duration
	next        time.Duration
}

// Next returns how long to wait this time.
func (b *Backoff) Next() time.Duration {
	d := max(b.next, b.First)
	b.next = min(2*d, b.Most)
	return d
}

// Reset makes First the next wait, since an attempt has succeeded.
func (b *Backoff) Reset() { b.next = 0 }

// Settle makes Most the next wait, since nothing is to be expected.
func (b *Backoff) Settle() { b.next = b.Most }

// Wait waits for Next, or returns the cause of ctx when that ends before.
func (b *Backoff) Wait(ctx context.Context) error { return For(ctx, b.Next()) }
