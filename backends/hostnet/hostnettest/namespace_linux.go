// Package hostnettest gives tests networks of their own, which are not the host's.
// It imports golang.org/x/sys and runs ip(8).
package hostnettest

import (
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Namespace puts the test, and what it starts, into an empty network namespace, for
// the rest of it: goroutines of the test stay outside. The error says what the
// host lacks for it.
func Namespace(t testing.TB) error {
	t.Helper()
	if _, err := exec.LookPath("ip"); err != nil {
		return fmt.Errorf("%w (apt-get install iproute2)", err)
	}
	runtime.LockOSThread() // for good: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("a network namespace takes root: %w", err)
	}
	return nil
}

// IP runs ip(8) with the words of command, which must succeed, and returns what it
// prints.
func IP(t testing.TB, command string) string {
	t.Helper()
	out, err := exec.Command("ip", strings.Fields(command)...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v: %s", command, err, out)
	}
	return string(out)
}
