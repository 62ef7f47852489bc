package queue_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/internal/queue"
)

// New queues numbers; 1000n+last stands for n lost ones.
func numbers() *queue.Queue[int] {
	return queue.New(4, func(n, last int) int { return 1000*n + last })
}

func TestOverrun(t *testing.T) {
	q := numbers()
	for i := range 10 {
		q.Put(i)
	}
	q.End(io.EOF)
	q.Put(99)
	var got []int
	for {
		v, err := q.Next(t.Context())
		if err != nil {
			require.ErrorIs(t, err, io.EOF)
			break
		}
		got = append(got, v)
	}
	assert.Equal(t, []int{6005, 6, 7, 8, 9}, got)
	_, ok := q.TryNext()
	assert.False(t, ok)
}

// A queue of what somebody sends who is not trusted is bounded in bytes, too.
func TestSized(t *testing.T) {
	q := queue.NewSized(4, 100, func(s string) int { return len(s) }, func(n int, last string) string {
		return fmt.Sprint(n, " lost up to ", last[:1])
	})
	for _, s := range []string{"a", strings.Repeat("b", 60), strings.Repeat("c", 60), "d", strings.Repeat("e", 101), "f"} {
		q.Put(s)
	}
	q.End(io.EOF)
	var got []string
	for v, err := q.Next(t.Context()); err == nil; v, err = q.Next(t.Context()) {
		got = append(got, v[:min(len(v), 20)])
	}
	assert.Equal(t, []string{"5 lost up to e", "f"}, got, "what is too large drops all before it, so that the order holds")
	q = queue.NewSized(4, 100, func(s string) int { return len(s) }, func(int, string) string { return "lost" })
	for range 1000 {
		q.Put(strings.Repeat("x", 50))
		_, ok := q.TryNext()
		require.True(t, ok, "what was taken counts no more")
	}
}

func TestNextWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := numbers()
		got := make(chan int)
		go func() {
			v, err := q.Next(context.Background())
			assert.NoError(t, err)
			got <- v
		}()
		synctest.Wait()
		q.Put(7)
		assert.Equal(t, 7, <-got)

		why := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(why)
		_, err := q.Next(ctx)
		assert.ErrorIs(t, err, why)

		// The end wakes all that wait.
		errs := make(chan error)
		for range 2 {
			go func() { _, err := q.Next(context.Background()); errs <- err }()
		}
		synctest.Wait()
		q.End(io.EOF)
		q.End(why)
		assert.ErrorIs(t, <-errs, io.EOF)
		assert.ErrorIs(t, <-errs, io.EOF)
	})
}

func TestChan(t *testing.T) {
	q := numbers()
	for i := range 6 {
		q.Put(i)
	}
	ch := q.Chan()
	assert.Equal(t, ch, q.Chan())
	q.End(io.EOF)
	var got []int
	for v := range ch {
		got = append(got, v)
	}
	assert.Equal(t, []int{2001, 2, 3, 4, 5}, got)
	q.Close(io.EOF)
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // which waits for the goroutines, too
		q := numbers()
		q.Put(1)
		q.Put(2)
		ch := q.Chan()
		synctest.Wait()
		q.Close(io.EOF)
		q.Close(io.EOF)
		_, ok := <-ch
		assert.False(t, ok, "nobody has taken it in time")
		_, err := q.Next(t.Context())
		assert.ErrorIs(t, err, io.EOF)

		q = numbers()
		q.Put(1)
		q.Close(io.EOF)
		_, ok = <-q.Chan()
		assert.False(t, ok)
	})
}
