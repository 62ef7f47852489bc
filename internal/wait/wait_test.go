package wait_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"vmfs/internal/wait"
)

func TestFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		assert.NoError(t, wait.For(t.Context(), time.Minute))
		assert.Equal(t, time.Minute, time.Since(began))

		why := errors.New("the VM has ended")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, why)
		defer cancel()
		assert.ErrorIs(t, wait.For(ctx, time.Minute), why)
		assert.Equal(t, time.Minute+time.Second, time.Since(began))
	})
}

func TestUntil(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, n := time.Now(), 0
		assert.NoError(t, wait.Until(t.Context(), time.Second, func() (bool, error) { n++; return n == 4, nil }))
		assert.Equal(t, 3*time.Second, time.Since(began), "the first look is at once")

		broken := errors.New("broken")
		assert.ErrorIs(t, wait.Until(t.Context(), time.Second, func() (bool, error) { return false, broken }), broken)
		ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
		defer cancel()
		assert.ErrorIs(t, wait.Until(ctx, time.Minute, func() (bool, error) { return false, nil }), context.DeadlineExceeded)
	})
}

func TestInterrupt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		calls := 0
		assert.False(t, wait.Interrupt(ctx, func() { calls++ })())
		began := time.Now()
		stop := wait.Interrupt(ctx, func() {
			time.Sleep(time.Minute)
			calls++
		})
		cancel()
		synctest.Wait()
		assert.True(t, stop(), "it has begun")
		assert.Equal(t, time.Minute, time.Since(began), "and is waited for")
		assert.Equal(t, 1, calls, "the one that was stopped before did not run")
	})
}

func TestBackoff(t *testing.T) {
	b := wait.Backoff{First: 10 * time.Millisecond, Most: 35 * time.Millisecond}
	for _, want := range []int{10, 20, 35, 35} {
		assert.Equal(t, time.Duration(want)*time.Millisecond, b.Next())
	}
	b.Reset()
	assert.Equal(t, 10*time.Millisecond, b.Next())
	b.Settle()
	assert.Equal(t, 35*time.Millisecond, b.Next())
	b.Reset()
	b.Next()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		assert.NoError(t, b.Wait(t.Context()))
		assert.Equal(t, 20*time.Millisecond, time.Since(began))
	})
}
