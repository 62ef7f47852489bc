package ninep

import (
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/ninep/wire/wiretest"
)

// A turn goes to one user after the other, however many connections each has.
func TestTurns(t *testing.T) {
	now := new(atomic.Int64)
	ts := turns{free: 1, vied: -vying, now: func() time.Duration { return time.Duration(now.Load()) }}
	many, one := new(userShare), new(userShare)
	begun := func() chan struct{} { return make(chan struct{}, 1) }
	ts.take(many, begun())
	var order []string
	var mu sync.Mutex
	var wg sync.WaitGroup
	wait := func(name string, u *userShare, n int) {
		for range n {
			before := ts.waiting.Load()
			wg.Go(func() {
				ts.take(u, begun())
				mu.Lock()
				order = append(order, name)
				mu.Unlock()
				ts.give(u, 0)
			})
			eventually(t, "one more waits", func() bool { return ts.waiting.Load() > before })
		}
	}
	wait("many", many, 4)
	wait("one", one, 2)
	ts.give(many, 0)
	wg.Wait()
	assert.Equal(t, []string{"many", "one", "many", "one", "many", "many"}, order)
	assert.Zero(t, ts.waiting.Load())
	assert.Equal(t, 1, ts.free)

	// Of two who wait for each other, who had a long turn rests, and the other need not.
	free := func(u *userShare) bool {
		done := make(chan struct{}, 1)
		go func() { ts.take(u, begun()); done <- struct{}{} }()
		got := false
		eventually(t, "a turn, or a rest", func() bool {
			select {
			case <-done:
				got = true
			default:
			}
			return got || ts.waiting.Load() == 1
		})
		if got {
			return true
		}
		now.Add(int64(longTurn))
		take(t, "the end of a rest", done)
		return false
	}
	ts.vied = ts.now()
	require.True(t, free(many))
	ts.give(many, longTurn)
	for range 2 {
		require.True(t, free(one))
		ts.give(one, 1)
	}
	require.False(t, free(many))
	ts.give(many, 1)
	now.Add(int64(vying))
	require.True(t, free(many))
	ts.give(many, longTurn)
	require.True(t, free(many), "nobody else is there")
	ts.give(many, 1)
}

// With one turn for all, who does not take his replies and whose files block hold nobody
// up, and everything is answered.
func TestOneTurn(t *testing.T) {
	fs := basicTree()
	fs.streamFile("s")
	ts := serve(t, fs)
	ts.init()
	ts.turns.free = 1
	deaf := ts.raw("9P2000.L").attach()
	var frames []byte
	for range 3000 {
		frames = append(frames, wiretest.Encode("9P2000.L", "Tgetattr", 9, map[string]string{"fid": "0"})...)
	}
	sent := make(chan error, 1)
	go func() {
		for range 10 {
			if _, err := deaf.Write(frames); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	var wg sync.WaitGroup
	for range 4 {
		c := ts.raw("9P2000.L").attach()
		wg.Go(func() {
			c.rpc("Twalk", "Rwalk", "fid", "0", "newfid", "1", "names", "s")
			c.rpc("Tlopen", "Rlopen", "fid", "1")
			c.send("Tread", 5, "fid", "1", "count", "10")
			for range 200 {
				c.rpc("Tgetattr", "Rgetattr", "fid", "0")
			}
		})
	}
	wg.Wait()
	go io.Copy(io.Discard, deaf)
	require.NoError(t, take(t, "the end of the requests", sent))
	require.NoError(t, deaf.Close())
	eventually(t, "the turn is free", func() bool {
		ts.turns.mu.Lock()
		defer ts.turns.mu.Unlock()
		return ts.turns.free == 1
	})
}
