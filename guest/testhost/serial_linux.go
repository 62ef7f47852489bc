package testhost

import (
	"bytes"
	"os"
	"path/filepath"
	"sync"
	"time"

	"vmfs/guest/testhost/internal/spec"
)

// tailBytes of the console are kept for an error.
const tailBytes = 4 << 10

// serial takes what a host says on its serial line, and QEMU on its standard error.
type serial struct {
	ready chan struct{} // closed when the host is up

	mu   sync.Mutex // guards the rest
	log  *os.File   // or nil
	last time.Time
	end  []byte // of what came
	up   bool
}

func newSerial(log string) (*serial, error) {
	s := &serial{ready: make(chan struct{}), last: time.Now()}
	if log == "" {
		return s, nil
	}
	if err := os.MkdirAll(filepath.Dir(log), 0o755); err != nil {
		return nil, err
	}
	var err error
	s.log, err = os.Create(log)
	return s, err
}

// Write takes more of it. Nothing is refused: a log that cannot be written is no
// reason to end the host.
func (s *serial) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = time.Now()
	if s.log != nil {
		_, _ = s.log.Write(b)
	}
	s.end = append(s.end, b...)
	if !s.up && bytes.Contains(s.end, []byte(spec.Ready)) {
		s.up = true
		close(s.ready)
	}
	if extra := len(s.end) - tailBytes; extra > 0 {
		s.end = append([]byte(nil), s.end[extra:]...)
	}
	return len(b), nil
}

func (s *serial) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.log != nil {
		s.log.Close()
	}
}

// silence is how long nothing has come.
func (s *serial) silence() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Since(s.last)
}

// tail is the end of what came, without the signs of life.
func (s *serial) tail() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []byte
	for line := range bytes.Lines(s.end) {
		if !bytes.HasPrefix(line, []byte(spec.Heartbeat)) {
			out = append(out, line...)
		}
	}
	return bytes.TrimSpace(out)
}
