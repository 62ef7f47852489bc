package machine

import (
	"context"
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
	"vmfs/machine/console"
	"vmfs/machine/console/consoletest"
)

// say lets the fake VMM's guest print a line.
func say(t *testing.T, v *VM, text string) {
	t.Helper()
	v.mu.Lock()
	s := v.session
	v.mu.Unlock()
	hv, err := s.handle(within(t))
	require.NoError(t, err)
	require.NoError(t, hv.(*fakeHandle).ask(within(t), "print "+text, nil))
}

func TestConsole(t *testing.T) {
	dir := stateDir(t)
	onlyFake(t, dir)
	h := vzHost(t, dir)
	v := create(t, h, "web", "")
	early := v.OpenConsole()
	defer early.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	_, err := early.Read(ctx, make([]byte, 10))
	cancel()
	assert.ErrorIs(t, err, context.DeadlineExceeded, "a VM that never ran has said nothing, and may yet")
	_, err = v.WriteConsole(within(t), []byte("x"))
	assert.ErrorIs(t, err, hypervisor.ErrHypervisorNotRunning)

	require.NoError(t, v.Start(within(t)))
	say(t, v, "one")
	assert.Equal(t, "one\n", consoletest.ReadUntil(t, within(t), early, "one\n"))
	late := v.OpenConsole()
	defer late.Close()
	assert.Equal(t, "one\n", consoletest.ReadUntil(t, within(t), late, "one\n"), "a new reader gets the past first")

	n, err := v.WriteConsole(within(t), []byte("hello\n"))
	require.NoError(t, err)
	assert.Equal(t, 6, n)
	for _, r := range []*console.Reader{early, late} {
		assert.Equal(t, "got hello\n", consoletest.ReadUntil(t, within(t), r, "hello\n"))
	}
	said := "one\ngot hello\n"
	for i := range 20 {
		_, err := v.WriteConsole(within(t), fmt.Appendf(nil, "%d\n", i))
		require.NoError(t, err)
		got := fmt.Sprintf("got %d\n", i)
		assert.Equal(t, got, consoletest.ReadUntil(t, within(t), early, "\n"))
		assert.Equal(t, got, consoletest.ReadUntil(t, within(t), late, "\n"))
		said += got
	}

	// Over a restart of the server.
	require.NoError(t, h.Close())
	_, err = early.Read(within(t), make([]byte, 10))
	assert.ErrorIs(t, err, io.EOF)
	h = vzHost(t, dir)
	v, _ = h.VM("web")
	say(t, v, "two")
	again := v.OpenConsole()
	defer again.Close()
	assert.Equal(t, said+"two\n", consoletest.ReadUntil(t, within(t), again, "two\n"), "nothing is lost, nothing told twice")
	_, err = v.WriteConsole(within(t), []byte("again\n"))
	require.NoError(t, err)
	assert.Equal(t, "got again\n", consoletest.ReadUntil(t, within(t), again, "again\n"))

	// Over a stop and a start of the VM.
	require.NoError(t, v.Stop(within(t)))
	require.NoError(t, v.Start(within(t)))
	say(t, v, "three")
	assert.Equal(t, "three\n", consoletest.ReadUntil(t, within(t), again, "three\n"))
	require.NoError(t, v.Kill(within(t)))

	done := make(chan error, 1)
	go func() {
		_, err := again.Read(context.Background(), make([]byte, 10))
		done <- err
	}()
	require.NoError(t, h.Delete(within(t), "web"))
	assert.ErrorIs(t, <-done, io.EOF)
}

func TestConsoleReaders(t *testing.T) {
	dir := stateDir(t)
	onlyFake(t, dir)
	h := vzHost(t, dir)
	v := started(t, h, "web", "")
	blocked := v.OpenConsole() // never reads
	defer blocked.Close()
	var want strings.Builder
	for i := range 50 {
		fmt.Fprintf(&want, "line %d\n", i)
	}
	var wg sync.WaitGroup
	for range 10 {
		r := v.OpenConsole()
		wg.Go(func() {
			defer r.Close()
			assert.Equal(t, want.String(), consoletest.ReadUntil(t, within(t), r, "line 49\n"))
		})
	}
	for i := range 50 {
		say(t, v, fmt.Sprintf("line %d", i))
	}
	wg.Wait()
	r := v.OpenConsole()
	done := make(chan error, 1)
	consoletest.ReadUntil(t, within(t), r, "line 49\n")
	go func() {
		_, err := r.Read(context.Background(), make([]byte, 10))
		done <- err
	}()
	require.NoError(t, r.Close())
	assert.ErrorIs(t, <-done, io.EOF)
}

// A console that its configuration names is read as well, and never cut.
func TestConsoleElsewhere(t *testing.T) {
	dir := stateDir(t)
	onlyFake(t, dir)
	h := vzHost(t, dir)
	v := create(t, h, "web", "")
	own := v.OpenConsole()
	defer own.Close()
	path := dir + "/serial"
	require.NoError(t, v.SetConfig(within(t), "serial.log="+path, false))
	assert.Equal(t, path, v.ConsoleLogPath())
	assert.EqualValues(t, console.MaxNamed, v.vmConfig(v.Config()).SerialLogMax, "who writes it bounds it, too")
	require.NoError(t, v.Start(within(t)))
	say(t, v, "elsewhere")
	assert.Equal(t, "elsewhere\n", consoletest.ReadUntil(t, within(t), own, "elsewhere\n"), "an open reader follows")
	consoletest.Bulk(t, path, 0, (9<<20)/64)
	require.NoError(t, v.console.Trim())
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.True(t, strings.HasPrefix(string(b), "elsewhere\n"))
	require.NoError(t, h.Close())
	h = vzHost(t, dir)
	v, _ = h.VM("web")
	assert.Equal(t, path, v.ConsoleLogPath())
	require.NoError(t, v.Kill(within(t)))
}
