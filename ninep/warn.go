package ninep

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// warnings is how many warnings clients can cause: a client that does wrong, is
// hung up on and comes back for more must not fill the disk with what the log
// says of it. What is beyond is logged as debugging, and counted.
type warnings struct {
	mu   sync.Mutex // guards what follows
	left float64    // how many there may be now
	at   time.Time  // when left was counted
	lost int        // since the last one
}

// There may be so many at once, and then one for each time.
const (
	warningBurst = 100
	warningTime  = time.Second
)

// take reports whether there may be one more warning, and how many there were
// in between that might not.
func (w *warnings) take(now time.Time) (ok bool, lost int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.at.IsZero() {
		w.left = warningBurst
	} else {
		w.left = min(w.left+float64(now.Sub(w.at))/float64(warningTime), warningBurst)
	}
	w.at = now
	if w.left < 1 {
		w.lost++
		return false, 0
	}
	w.left--
	lost, w.lost = w.lost, 0
	return true, lost
}

// warn logs what a client does wrong.
func (s *Server) warn(log *slog.Logger, msg string, args ...any) {
	level := slog.LevelWarn
	switch ok, lost := s.warned.take(time.Now()); {
	case !ok:
		level = slog.LevelDebug
	case lost > 0:
		args = append(args, "unsaid", lost)
	}
	log.Log(context.Background(), level, msg, args...)
}
