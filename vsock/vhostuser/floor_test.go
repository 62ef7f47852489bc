//go:build linux

package vhostuser

import (
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestFloor has streams send alone and beside others, by a clock of its own.
func TestFloor(t *testing.T) {
	begin := time.Unix(1000, 0)
	var f floor
	a, b, chat := &stream{}, &stream{}, &stream{}

	now := begin
	assert.Nil(t, f.take(a, 2*floorMost, now))
	assert.False(t, f.holds(a, now), "it is the only one")
	assert.Nil(t, f.take(chat, 100, now))
	assert.Nil(t, f.take(a, 2*floorMost, now))
	assert.False(t, f.holds(a, now), "the other has next to nothing to say")

	assert.Nil(t, f.take(b, floorPacket, now))
	assert.Nil(t, f.take(a, floorMost-1, now))
	assert.False(t, f.holds(a, now))
	assert.Nil(t, f.take(a, 1, now))
	assert.True(t, f.holds(a, now))
	assert.False(t, f.holds(b, now), "the other never waits")
	assert.Nil(t, f.over(now.Add(floorWait-1)))
	assert.Same(t, a, f.take(b, 1, now), "the other has sent")
	assert.Zero(t, f.until)
	assert.False(t, f.holds(a, now))

	assert.Nil(t, f.take(a, floorMost, now))
	assert.True(t, f.holds(a, now))
	assert.True(t, f.holds(a, now.Add(floorWait/2)), "which does not make it longer")
	assert.Same(t, a, f.over(now.Add(floorWait)), "nobody has anything to say")
	assert.Nil(t, f.over(now.Add(floorWait)))
	assert.False(t, f.holds(a, now.Add(floorWait)), "so it goes on")

	now = now.Add(floorTurn)
	assert.Nil(t, f.take(a, floorMost, now))
	assert.True(t, f.holds(a, now), "the other sent in the turn before")
	f.forget(a)
	assert.Nil(t, f.take(b, 1, now), "who waited is no more")
	assert.Nil(t, f.over(now.Add(floorWait)))

	now = now.Add(2 * floorTurn)
	assert.Nil(t, f.take(a, floorMost, now))
	assert.False(t, f.holds(a, now), "nobody else has sent for long")
}

// TestFloorIsGivenBack reads from one of two streams that have both sent a lot: the
// other, with no room, says nothing any more, and keeps nobody waiting.
func TestFloorIsGivenBack(t *testing.T) {
	v := newFakeVM(t, nil)
	v.boot()
	v.stack(services)
	a, b := v.open(19), v.open(19)
	_, err := io.CopyN(io.Discard, b, 64<<10)
	require.NoError(t, err)
	begin := time.Now()
	_, err = io.CopyN(io.Discard, a, 16*floorMost)
	require.NoError(t, err)
	assert.Less(t, time.Since(begin), patience)
}
