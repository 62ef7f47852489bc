package ninep

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestWarnings(t *testing.T) {
	var w warnings
	now := time.Unix(1000, 0)
	for range warningBurst {
		ok, lost := w.take(now)
		assert.True(t, ok)
		assert.Zero(t, lost)
	}
	for range 7 {
		ok, _ := w.take(now.Add(warningTime / 20))
		assert.False(t, ok)
	}
	ok, lost := w.take(now.Add(3 * warningTime / 2))
	assert.True(t, ok)
	assert.Equal(t, 7, lost, "it is told how many there were")
	ok, _ = w.take(now.Add(3 * warningTime / 2))
	assert.False(t, ok)
	n := 0
	for range 3 * warningBurst {
		if ok, _ := w.take(now.Add(time.Hour)); ok {
			n++
		}
	}
	assert.Equal(t, warningBurst, n, "a quiet hour is good for no more than a burst")
}

// TestLogFlood: clients that come again and again to do wrong fill no log.
func TestLogFlood(t *testing.T) {
	log := new(logBuf)
	ts := serve(t, basicTree(), func(s *Server) { s.Log = slog.New(slog.NewTextHandler(log, nil)) })
	for range 3 * warningBurst {
		c := ts.raw("9P2000.L")
		c.rpc("Tnothing", "Rlerror")
		c.Close()
	}
	eventually(t, "warnings", func() bool { return strings.Contains(log.String(), "unknown message") })
	// One for each, as far as they go, and what time allows besides.
	assert.Less(t, strings.Count(log.String(), "level=WARN"), 2*warningBurst+warningBurst/2)
}
