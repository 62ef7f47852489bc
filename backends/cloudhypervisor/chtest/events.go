package chtest

import (
	"encoding/json"
	"io"
	"os"
	"slices"
	"sync"
	"time"
)

// An eventFile writes events as Cloud Hypervisor does: JSON on several lines, an empty line
// behind it, and no look at whether that succeeds.
type eventFile struct {
	f         *os.File // nil for none
	start     time.Time
	lost, cut []string // as "vm paused"

	mu sync.Mutex // held for each record
}

type stamp struct {
	Secs  int64 `json:"secs"`
	Nanos int64 `json:"nanos"`
}

func (e *eventFile) write(source, event string, properties map[string]string) {
	t := time.Since(e.start)
	b, err := json.MarshalIndent(struct {
		Timestamp  stamp             `json:"timestamp"`
		Source     string            `json:"source"`
		Event      string            `json:"event"`
		Properties map[string]string `json:"properties"`
	}{stamp{int64(t / time.Second), int64(t % time.Second)}, source, event, properties}, "", "  ")
	name := source + " " + event
	if err != nil || e.f == nil || slices.Contains(e.lost, name) {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if slices.Contains(e.cut, name) {
		b = b[:len(b)/2]
	}
	_, _ = e.f.Write(b)
	_, _ = io.WriteString(e.f, "\n\n")
}
