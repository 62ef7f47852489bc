package hypervisortest

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
)

// converse types and reads until want has come, a read fails or time is up, and
// returns what it has read. After a time-out its reader ends when the caller
// closes conn.
func converse(conn io.ReadWriter, typed, want string, timeout time.Duration) (string, error) {
	var mu sync.Mutex // guards got
	var got []byte
	read := func() string {
		mu.Lock()
		defer mu.Unlock()
		return string(got)
	}
	done := make(chan error, 1)
	go func() {
		_, err := io.WriteString(conn, typed)
		buf := make([]byte, 4096)
		for err == nil && !strings.Contains(read(), want) {
			var n int
			n, err = conn.Read(buf)
			mu.Lock()
			got = append(got, buf[:n]...)
			mu.Unlock()
		}
		done <- err
	}()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	var err error
	select {
	case err = <-done:
	case <-timer.C:
		err = fmt.Errorf("no more within %s", timeout)
	}
	text := read()
	if strings.Contains(text, want) {
		return text, nil
	}
	return text, err
}

func newToken() string { return "t" + rand.Text()[:10] }

// openConsole connects to the console, if there is one.
func (vm *VM) openConsole(t testing.TB) (io.ReadWriteCloser, bool) {
	t.Helper()
	c, ok := vm.Handle.(hypervisor.Console)
	if !ok {
		return nil, false
	}
	conn, err := c.OpenConsole(vm.suite.ctx(t))
	require.NoError(t, err, "OpenConsole")
	t.Cleanup(func() { _ = conn.Close() }) // may be closed already
	return conn, true
}

// expectAlive checks that the guest does something, as far as can be seen.
func (vm *VM) expectAlive(t testing.TB) {
	t.Helper()
	conn, ok := vm.openConsole(t)
	if !ok {
		return
	}
	typed, want := vm.suite.b.Echo(newToken())
	// The first return ends what an earlier connection may have left half typed.
	vm.typeAt(t, conn, "\r"+typed, want)
	require.NoError(t, conn.Close())
}

func (s *suite) testConsole(t *testing.T) {
	vm := s.vm(t)
	conn, ok := vm.openConsole(t)
	if !ok {
		t.Skip("the back end has no console")
	}
	for range 3 {
		token := newToken()
		typed, want := s.b.Echo(token)
		from := vm.serialSize()
		vm.typeAt(t, conn, typed, want)
		assert.NoError(t, awaitFile(s.ctx(t), vm.Config.SerialLogPath, from, token), "the serial log lacks what the console printed")
	}

	// A second connection fails or waits, and leaves the first alone.
	ctx, cancel := context.WithTimeout(context.Background(), s.b.Deadline)
	defer cancel()
	second, err := func() (io.ReadWriteCloser, error) { return vm.Handle.(hypervisor.Console).OpenConsole(ctx) }()
	typed, want := s.b.Echo(newToken())
	vm.typeAt(t, conn, typed, want)
	if err == nil {
		require.NoError(t, second.Close())
	}

	// Close ends a read that waits, and another connection can be made.
	read := make(chan error, 1)
	go func() {
		for {
			if _, err := conn.Read(make([]byte, 4096)); err != nil {
				read <- err
				return
			}
		}
	}()
	require.NoError(t, conn.Close())
	_ = promptly(t, s.b.Prompt, "a read of a console that was closed", func() error { return <-read })
	vm.expectAlive(t)

	// Output without a connection is in the log alone.
	if r, ok := vm.Handle.(hypervisor.Resetter); ok {
		from := vm.serialSize()
		require.NoError(t, r.Reset(s.ctx(t)))
		vm.booted = from
		vm.ready(t)
		fi, err := os.Stat(vm.Config.SerialLogPath)
		require.NoError(t, err)
		assert.Greater(t, fi.Size(), from, "a boot printed nothing into the serial log")
		vm.expectAlive(t)
	}
}
