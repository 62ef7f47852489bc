package events

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/machine/rc"
)

func TestEventString(t *testing.T) {
	r := Event{
		Seq: 7, Time: time.Date(2026, 1, 2, 3, 4, 5, 6_700_000, time.FixedZone("x", 3600)), VM: "web", Kind: "paused",
		State: hypervisor.StatePaused, Reason: "io-error",
		Detail: []hypervisor.Detail{{Key: "text", Value: "it's\nfull"}, {Key: "empty"}},
	}
	line := r.String()
	assert.Equal(t, "7 2026-01-02T02:04:05.006Z web paused state=paused reason=io-error text='it''s full' empty=''", line)
	words, err := rc.Split(line)
	require.NoError(t, err)
	assert.Equal(t, "text=it's full", words[6])
	r.Detail = []hypervisor.Detail{{Key: "text", Value: "a\n8 2026 web deleted"}}
	assert.Equal(t, 1, strings.Count(r.String()+"\n", "\n"))
	r.State, r.Reason = "", "\x1b[2J"
	r.Detail = []hypervisor.Detail{{Key: "text", Value: "\x1b]0;x\x07\u009b\xff"}, {Key: "a state=running\n9", Value: "1"}}
	assert.Equal(t, `7 2026-01-02T02:04:05.006Z web paused reason=\x1b[2J text=\x1b]0;x\x07\u009b\xff a_state_running_9=1`, r.String())
}

func TestFeedOverrun(t *testing.T) {
	var f Feed
	slow, fast := f.Subscribe(), f.Subscribe()
	defer slow.Close()
	defer fast.Close()
	for i := range MaxWaiting + 10 {
		f.Publish(Event{Seq: uint64(i + 1), VM: "web"})
		r, err := fast.Next(t.Context())
		require.NoError(t, err)
		require.Equal(t, uint64(i+1), r.Seq)
	}
	r, err := slow.Next(t.Context())
	require.NoError(t, err)
	assert.Equal(t, KindLost, r.Kind)
	assert.Contains(t, r.String(), "n=10")
	r, err = slow.Next(t.Context())
	require.NoError(t, err)
	assert.Equal(t, uint64(11), r.Seq)
	n := 1
	for {
		if _, ok := slow.TryNext(); !ok {
			break
		}
		n++
	}
	assert.Equal(t, MaxWaiting, n)
}

func TestFeedEnds(t *testing.T) {
	var f Feed
	s, closed := f.Subscribe(), f.Subscribe()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := s.Next(ctx)
	assert.ErrorIs(t, err, context.Canceled)

	done := make(chan error, 1)
	go func() {
		_, err := closed.Next(context.Background())
		done <- err
	}()
	closed.Close()
	closed.Close()
	assert.ErrorIs(t, <-done, io.EOF)

	f.Publish(Event{Seq: 1})
	f.Close()
	r, err := s.Next(t.Context())
	require.NoError(t, err, "what is queued is still told")
	assert.Equal(t, uint64(1), r.Seq)
	_, err = s.Next(t.Context())
	assert.ErrorIs(t, err, io.EOF)
	_, err = f.Subscribe().Next(t.Context())
	assert.ErrorIs(t, err, io.EOF)
}

func TestHistory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events")
	h := &History{Path: path}
	seq, state := h.Last()
	assert.Zero(t, seq)
	assert.Empty(t, state)
	line := func(n uint64) string {
		return Event{Seq: n, VM: "web", Kind: "running", State: "running", Detail: []hypervisor.Detail{{Key: "x", Value: strings.Repeat("y", 1000)}}}.String()
	}
	const n = 600
	for i := range uint64(n) {
		require.NoError(t, h.Add(line(i+1)))
	}
	fi, err := os.Stat(path)
	require.NoError(t, err)
	assert.LessOrEqual(t, fi.Size(), int64(maxHistory))
	lines, torn, err := h.Lines()
	require.NoError(t, err)
	assert.False(t, torn)
	assert.Equal(t, line(n), lines[len(lines)-1])
	assert.Equal(t, line(uint64(n-len(lines)+1)), lines[0], "no line is cut and none is missing")

	// A crash within a write.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	require.NoError(t, err)
	_, err = f.WriteString("601 2026-01")
	require.NoError(t, err)
	require.NoError(t, f.Close())
	h = &History{Path: path}
	seq, state = h.Last()
	assert.Equal(t, uint64(n), seq)
	assert.Equal(t, "running", state)
	require.NoError(t, h.Add(line(n+1)))
	seq, _ = h.Last()
	assert.Equal(t, uint64(n+1), seq)
}
