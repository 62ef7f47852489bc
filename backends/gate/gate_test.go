package gate

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
)

func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Gate
		require.NoError(t, g.Pass(t.Context()))
		release, err := g.Hold("a snapshot", false)
		require.NoError(t, err)
		err = g.Pass(t.Context())
		require.ErrorIs(t, err, hypervisor.ErrBusy)
		assert.ErrorContains(t, err, "a snapshot")
		_, err = g.Hold("another", false)
		require.ErrorIs(t, err, hypervisor.ErrBusy)
		release()
		release, err = g.Hold("a moment's work", true)
		require.NoError(t, err)
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err = g.Pass(short)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.ErrorContains(t, err, "a moment's work")
		free := make(chan error, 1)
		go func() { free <- g.Pass(t.Context()) }()
		synctest.Wait()
		select {
		case <-free:
			t.Fatal("it did not wait")
		default:
		}
		release()
		require.NoError(t, <-free)

		// One who enters waits as well, and is then whom others wait for.
		release, err = g.Hold("a moment's work", true)
		require.NoError(t, err)
		entered := make(chan func(), 1)
		go func() {
			release, err := g.Enter(t.Context(), "a snapshot", false)
			assert.NoError(t, err)
			entered <- release
		}()
		synctest.Wait()
		assert.Empty(t, entered)
		release()
		release = <-entered
		never := func(context.Context) error { panic("it is kept out") }
		require.ErrorIs(t, g.Do(t.Context(), never), hypervisor.ErrBusy)
		_, err = g.Enter(t.Context(), "another", true)
		require.ErrorIs(t, err, hypervisor.ErrBusy)
		release()
		done := false
		require.NoError(t, g.Do(t.Context(), func(context.Context) error { done = true; return nil }))
		assert.True(t, done)
	})
}
