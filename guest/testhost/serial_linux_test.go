package testhost

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/guest/testhost/internal/spec"
)

func TestSerial(t *testing.T) {
	log := filepath.Join(t.TempDir(), "a", "console")
	s, err := newSerial(log)
	require.NoError(t, err)
	say := func(text string) { _, _ = s.Write([]byte(text)) }
	say("booting\n" + spec.Ready[:10])
	select {
	case <-s.ready:
		t.Fatal("ready with half a line")
	default:
	}
	s.last = time.Now().Add(-time.Hour)
	assert.Greater(t, s.silence(), 59*time.Minute)
	say(spec.Ready[10:] + "\n")
	assert.Less(t, s.silence(), time.Minute)
	<-s.ready
	say(spec.Heartbeat + "1\nKernel panic\n" + spec.Heartbeat + "2\n")
	assert.Equal(t, "booting\n"+spec.Ready+"\nKernel panic", string(s.tail()))
	for range 1000 {
		say("0123456789abcdef\n")
	}
	assert.Less(t, len(s.tail()), tailBytes+1)
	s.close()
	b, err := os.ReadFile(log)
	require.NoError(t, err)
	assert.Contains(t, string(b), "Kernel panic\n"+spec.Heartbeat+"2\n", "the log has all")
}
