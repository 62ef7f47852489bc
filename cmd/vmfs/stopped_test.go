package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestStoppedServer stops the server while a guest prints much more than a
// socket holds: the guest goes on, and the console has each byte once.
func TestStoppedServer(t *testing.T) {
	s := newServer(t)
	s.start()
	s.makeVM("web", guestConfig(t))
	console := s.follow("web/console")
	s.must("write", "web/ctl", "start")
	console.expect(t, "vmfs guest ready")
	s.must("write", "web/console", "echo sle''ep; sleep 5; seq 1 2000; echo do''ne")
	console.expect(t, "sleep\r\n")

	time.Sleep(time.Second) // the server hangs up a moment after the guest has read what was typed
	require.NoError(t, s.cmd.Process.Signal(syscall.SIGSTOP))
	log := filepath.Join(s.state, "vms", "web", "console.log")
	require.Eventually(t, func() bool {
		text, err := os.ReadFile(log)
		return err == nil && strings.Contains(string(text), "done\r\n")
	}, patience, 100*time.Millisecond, "the guest waits for the server to read its console")
	require.NoError(t, s.cmd.Process.Signal(syscall.SIGCONT))

	console.expect(t, "done\r\n")
	var want strings.Builder
	for i := 1; i <= 2000; i++ {
		fmt.Fprintf(&want, "%d\r\n", i)
	}
	_, after, _ := strings.Cut(console.String(), "sleep\r\n")
	got, _, _ := strings.Cut(after, "done\r\n")
	require.Equal(t, want.String(), got)

	// What is typed while the guest does not read is kept for it.
	s.must("write", "web/ctl", "pause")
	s.must("write", "web/console", "echo ty''ped "+strings.Repeat("x", 200))
	s.must("write", "web/console", "echo ag''ain")
	s.must("write", "web/ctl", "resume")
	console.expect(t, "typed "+strings.Repeat("x", 200)+"\r\n")
	console.expect(t, "again\r\n")
	s.must("write", "web/ctl", "kill")
}
