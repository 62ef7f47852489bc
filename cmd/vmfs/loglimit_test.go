package main

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestLimitWarnings(t *testing.T) {
	var out bytes.Buffer
	h := limitWarnings(slog.NewTextHandler(&out, nil))
	begin := time.Unix(1000, 0)
	// say logs one message so often and returns the lines that come of it.
	say := func(h slog.Handler, level slog.Level, message string, n int, at time.Duration) []string {
		out.Reset()
		for range n {
			require.NoError(t, h.Handle(t.Context(), slog.NewRecord(begin.Add(at), level, message, 0)))
		}
		return strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	}
	assert.Len(t, say(h, slog.LevelWarn, "command failed", warningBurst+7, 0), warningBurst)
	assert.Len(t, say(h, slog.LevelWarn, "hanging up", 3, 0), 3, "another message")
	assert.Len(t, say(h, slog.LevelError, "snapshots not listed", 3*warningBurst, 0), warningBurst, "an error is limited too")
	assert.Len(t, say(h, slog.LevelInfo, "serving", 3*warningBurst, 0), 3*warningBurst, "what the server does is not")
	later := say(h.WithAttrs([]slog.Attr{slog.String("vm", "web")}).WithGroup("more"), slog.LevelWarn, "command failed", 2, 3*warningTime/2)
	require.Len(t, later, 1, "the limit is that of all loggers made of one")
	assert.Contains(t, later[0], `msg="command failed" vm=web more.unsaid=7`)
	assert.Len(t, say(h, slog.LevelWarn, "command failed", 1, 0), 1, "a clock that goes back")
	assert.Len(t, say(h, slog.LevelWarn, "command failed", 3*warningBurst, time.Hour), warningBurst, "a quiet hour is good for no more")
}

// TestLogPrintable holds that what clients say does not get at the terminal of who reads the
// log, in either format.
func TestLogPrintable(t *testing.T) {
	const raw = "\x1b]0;x\x07 \u009b31m \x7f \u202e \xff\x00"
	for _, format := range []string{"text", "json"} {
		var out bytes.Buffer
		log, err := newLogger(&out, "info", format)
		require.NoError(t, err)
		log.Warn("attach refused", "uname", raw, "err", errors.New(raw), "user", stringer(raw), "n", 7, "long", strings.Repeat("x", 1<<20))
		assert.Less(t, out.Len(), 2*maxAttr, format)
		assert.True(t, utf8.Valid(out.Bytes()), format)
		for _, r := range strings.TrimSuffix(out.String(), "\n") {
			require.False(t, unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r), "%s: %q", format, out.String())
		}
		assert.Equal(t, 3, strings.Count(out.String(), `x1b]0;x`), "%s: %.500s", format, out.String())
	}
}

type stringer string

func (s stringer) String() string { return string(s) }

// TestLogFlood fails commands again and again: the log has some of it, and how much
// more there was.
func TestLogFlood(t *testing.T) {
	s := newServer(t)
	s.start()
	s.must("mkdir", "web")
	c := s.client()
	fail := func() { require.Error(t, c.send("web/ctl", "pause")) }
	for range 3 * warningBurst {
		fail()
	}
	time.Sleep(2 * warningTime)
	fail()
	s.log.expect(t, "unsaid=")
	assert.Less(t, strings.Count(s.log.String(), "command failed"), 2*warningBurst)
}
