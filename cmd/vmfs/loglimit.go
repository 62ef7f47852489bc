package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"vmfs/internal/printable"
	"vmfs/machine/rc"
)

// Clients can cause warnings, by commands that fail and by breaking the protocol, and
// errors, by what then fails in the server. Of each there may be so many at once, and then
// one for each time.
const (
	warningBurst = 100
	warningTime  = time.Second
)

// limitWarnings is a handler that passes on all but warnings and errors that come too often:
// a client that does wrong again and again must not fill the disk with what the
// log says of it. What is left out is counted in the next that is not. Each message
// has a limit of its own, so that one hides no other; messages are the program's own
// words, with what clients say in attributes.
func limitWarnings(h slog.Handler) slog.Handler {
	return &warningLimit{h, &warningCounts{of: make(map[string]*warningCount)}}
}

type warningLimit struct {
	slog.Handler
	counts *warningCounts
}

type warningCounts struct {
	mu sync.Mutex // guards what follows
	of map[string]*warningCount
}

type warningCount struct {
	*rate.Limiter
	lost int // since the last that was passed on
}

func (l *warningLimit) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < slog.LevelWarn {
		return l.Handler.Handle(ctx, r)
	}
	ok, lost := l.counts.take(r.Message, r.Time)
	if !ok {
		return nil
	}
	if lost > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int("unsaid", lost))
	}
	return l.Handler.Handle(ctx, r)
}

func (l *warningLimit) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &warningLimit{l.Handler.WithAttrs(attrs), l.counts}
}

func (l *warningLimit) WithGroup(name string) slog.Handler {
	return &warningLimit{l.Handler.WithGroup(name), l.counts}
}

// take reports whether there may be one more, and how many there were before it
// that might not.
func (c *warningCounts) take(message string, now time.Time) (ok bool, lost int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.of[message]
	if w == nil {
		w = &warningCount{Limiter: rate.NewLimiter(rate.Every(warningTime), warningBurst)}
		c.of[message] = w
	}
	if !w.AllowN(now, 1) {
		w.lost++
		return false, 0
	}
	lost, w.lost = w.lost, 0
	return true, lost
}

// maxAttr is how much of one attribute gets into the log.
const maxAttr = 16 << 10

// printableAttr has what clients, guests and VMMs say in attributes printable in the log.
func printableAttr(_ []string, a slog.Attr) slog.Attr {
	var text string
	switch v := a.Value.Resolve(); v.Kind() {
	case slog.KindString:
		text = v.String()
	case slog.KindAny:
		switch x := v.Any().(type) {
		case error:
			text = x.Error()
		case fmt.Stringer:
			text = x.String()
		default:
			return a
		}
	default:
		return a
	}
	a.Value = slog.StringValue(printable.Text(rc.Brief(text, maxAttr)))
	return a
}
