package resize

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
)

const mib = 1 << 20

func TestSplit(t *testing.T) {
	l := Limits{Base: 256 * mib, Plug: 512 * mib, Most: 768*mib - 1, Step: 2 * mib}
	for bytes, want := range map[int64][2]int64{
		256 * mib:            {0, 256 * mib},
		256*mib + 1:          {0, 256 * mib},
		256*mib + mib:        {2 * mib, 256 * mib},
		257*mib - 1:          {0, 256 * mib},
		300 * mib:            {44 * mib, 256 * mib},
		768*mib - 1:          {512 * mib, 256 * mib},
		256*mib - 1:          {0, 256 * mib},
		100*mib + 5000:       {0, 100*mib + 4096},
		hypervisor.MinMemory: {0, hypervisor.MinMemory},
		255*mib + Page/2 + 1: {0, 255*mib + Page},
	} {
		plugged, left, err := l.Split(bytes)
		require.NoError(t, err)
		assert.Equal(t, want, [2]int64{plugged, left}, "%d", bytes)
	}
	for bytes, says := range map[int64]string{768 * mib: "805306367", hypervisor.MinMemory - 1: "16777216", -1: "-1"} {
		_, _, err := l.Split(bytes)
		require.ErrorIs(t, err, hypervisor.ErrInvalid)
		assert.ErrorContains(t, err, says)
	}
}

// guest is one that has the target after some looks, each a second after the other.
func guest(target int64, looks int) Guest {
	has := target - mib
	return Guest{
		Set:    func(context.Context) (int64, error) { return target, nil },
		Actual: func(context.Context) (int64, error) { return has, nil },
		Changed: func(ctx context.Context) error {
			if looks--; looks == 0 {
				has = target
			}
			select {
			case <-time.After(time.Second):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		},
	}
}

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		require.NoError(t, guest(64*mib, 3).Wait(t.Context(), time.Minute))
		assert.Equal(t, 3*time.Second, time.Since(began))

		var resize *hypervisor.ResizeError
		err := guest(64*mib, 30).Wait(t.Context(), 10*time.Second)
		require.ErrorAs(t, err, &resize)
		assert.Equal(t, hypervisor.ResizeError{Target: 64 * mib, Actual: 63 * mib}, *resize)

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, guest(64*mib, 30).Wait(ctx, time.Minute), context.Canceled)

		broken := errors.New("broken")
		g := guest(64*mib, 3)
		g.Changed = func(context.Context) error { return broken }
		require.ErrorIs(t, g.Wait(t.Context(), time.Minute), broken, "a VMM that is gone")
		g = guest(64*mib, 3)
		g.Actual = func(context.Context) (int64, error) { return 0, broken }
		require.ErrorIs(t, g.Wait(t.Context(), time.Minute), broken)
		g.Set = func(context.Context) (int64, error) { return 0, hypervisor.ErrInvalid }
		require.ErrorIs(t, g.Wait(t.Context(), time.Minute), hypervisor.ErrInvalid)
		// One that hangs has said nothing that could be told.
		g = guest(64*mib, 3)
		g.Actual = func(ctx context.Context) (int64, error) { <-ctx.Done(); return 0, ctx.Err() }
		err = g.Wait(t.Context(), time.Second)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.False(t, errors.As(err, &resize))
	})
}
