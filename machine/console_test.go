package machine

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
)

// readUntil reads until the text has come and returns all that has.
func readUntil(t *testing.T, r *ConsoleReader, text string) string {
	t.Helper()
	var b strings.Builder
	p := make([]byte, 4096)
	for !strings.Contains(b.String(), text) {
		n, err := r.Read(within(t), p)
		require.NoError(t, err, "waited for %q, got %q", text, b.String())
		b.Write(p[:n])
	}
	return b.String()
}

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
	assert.Equal(t, "one\n", readUntil(t, early, "one\n"))
	late := v.OpenConsole()
	defer late.Close()
	assert.Equal(t, "one\n", readUntil(t, late, "one\n"), "a new reader gets the past first")

	n, err := v.WriteConsole(within(t), []byte("hello\n"))
	require.NoError(t, err)
	assert.Equal(t, 6, n)
	for _, r := range []*ConsoleReader{early, late} {
		assert.Equal(t, "got hello\n", readUntil(t, r, "hello\n"))
	}
	assert.Eventually(t, func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.session.console == nil
	}, patience, time.Millisecond, "nobody is connected who does not type")
	said := "one\ngot hello\n"
	for i := range 20 {
		_, err := v.WriteConsole(within(t), fmt.Appendf(nil, "%d\n", i))
		require.NoError(t, err)
		got := fmt.Sprintf("got %d\n", i)
		assert.Equal(t, got, readUntil(t, early, "\n"))
		assert.Equal(t, got, readUntil(t, late, "\n"))
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
	assert.Equal(t, said+"two\n", readUntil(t, again, "two\n"), "nothing is lost, nothing told twice")
	_, err = v.WriteConsole(within(t), []byte("again\n"))
	require.NoError(t, err)
	assert.Equal(t, "got again\n", readUntil(t, again, "again\n"))

	// Over a stop and a start of the VM.
	require.NoError(t, v.Stop(within(t)))
	require.NoError(t, v.Start(within(t)))
	say(t, v, "three")
	assert.Equal(t, "three\n", readUntil(t, again, "three\n"))
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
			assert.Equal(t, want.String(), readUntil(t, r, "line 49\n"))
		})
	}
	for i := range 50 {
		say(t, v, fmt.Sprintf("line %d", i))
	}
	wg.Wait()
	r := v.OpenConsole()
	done := make(chan error, 1)
	readUntil(t, r, "line 49\n")
	go func() {
		_, err := r.Read(context.Background(), make([]byte, 10))
		done <- err
	}()
	require.NoError(t, r.Close())
	assert.ErrorIs(t, <-done, io.EOF)
}

// bulk appends n lines of 64 bytes from number i on, as a VMM would.
func bulk(t *testing.T, path string, i, n int) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	require.NoError(t, err)
	defer f.Close()
	var b strings.Builder
	for ; n > 0; n-- {
		fmt.Fprintf(&b, "%063d\n", i)
		i++
	}
	_, err = f.WriteString(b.String())
	require.NoError(t, err)
}

func TestConsoleBound(t *testing.T) {
	h, _ := simHost(t)
	v := create(t, h, "web", "")
	c := &v.console
	require.NoError(t, c.prepare())
	slow, live := v.OpenConsole(), v.OpenConsole()
	defer slow.Close()
	defer live.Close()
	bulk(t, c.path, 0, 10)
	readUntil(t, slow, "\n")
	readUntil(t, live, fmt.Sprintf("%063d\n", 9))
	const per = 1 << 20 / 64
	last := 10
	p := make([]byte, 1<<20)
	got := last * 64
	for range 12 {
		bulk(t, c.path, last, per)
		last += per
		require.NoError(t, c.trim())
		for got < last*64 {
			n, err := live.Read(within(t), p)
			require.NoError(t, err)
			require.Equal(t, fmt.Sprintf("%063d\n", got/64), string(p[:64]))
			got += n
			require.Zero(t, got%64)
		}
	}
	assert.Equal(t, last*64, got, "who keeps up loses nothing")
	n, err := slow.Read(within(t), p[:64])
	require.NoError(t, err)
	require.Equal(t, 64, n)
	assert.NotContains(t, string(p[:64]), "\x00", "who does not never sees a hole")

	fresh := v.OpenConsole()
	defer fresh.Close()
	text := readUntil(t, fresh, fmt.Sprintf("%063d\n", last-1))
	assert.LessOrEqual(t, len(text), scrollBack)
	assert.True(t, strings.HasPrefix(text, "0"), "the past begins with a whole line")

	// The file system that has no holes.
	f, err := os.OpenFile(c.path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	fi, err := f.Stat()
	require.NoError(t, err)
	c.mu.Lock()
	err = c.rotate(f, fi.Size())
	c.mu.Unlock()
	require.NoError(t, err)
	bulk(t, c.path, last, 1)
	n, err = live.Read(within(t), p)
	require.NoError(t, err)
	assert.Equal(t, fmt.Sprintf("%063d\n", last), string(p[:n]))
	fi, err = os.Stat(c.path + ".1")
	require.NoError(t, err)
	assert.Equal(t, int64(keepConsole), fi.Size())
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
	require.NoError(t, v.Start(within(t)))
	say(t, v, "elsewhere")
	assert.Equal(t, "elsewhere\n", readUntil(t, own, "elsewhere\n"), "an open reader follows")
	bulk(t, path, 0, maxConsole/64)
	require.NoError(t, v.console.trim())
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.True(t, strings.HasPrefix(string(b), "elsewhere\n"))
	require.NoError(t, h.Close())
	h = vzHost(t, dir)
	v, _ = h.VM("web")
	assert.Equal(t, path, v.ConsoleLogPath())
	require.NoError(t, v.Kill(within(t)))
}

// A file that is mostly hole is made small again while nobody writes it.
func TestConsoleShrinks(t *testing.T) {
	h, _ := simHost(t)
	v := create(t, h, "web", "")
	c := &v.console
	require.NoError(t, c.prepare())
	require.NoError(t, os.Truncate(c.path, bigConsole))
	bulk(t, c.path, 0, keepConsole/64)
	r := v.OpenConsole()
	defer r.Close()
	readUntil(t, r, fmt.Sprintf("%063d\n", keepConsole/64-1))
	require.NoError(t, c.prepare())
	fi, err := os.Stat(c.path)
	require.NoError(t, err)
	assert.Equal(t, int64(keepConsole), fi.Size())
	bulk(t, c.path, 7, 1)
	assert.Equal(t, fmt.Sprintf("%063d\n", 7), readUntil(t, r, "\n"), "a reader goes on where it was")
}

// stuck is a console whose guest reads nothing until it is let go.
type stuck struct {
	io.ReadWriteCloser
	free chan struct{}
}

func (s stuck) Write(p []byte) (int, error) {
	<-s.free
	return len(p), nil
}

func TestConsoleInputBlocks(t *testing.T) {
	s := stuck{free: make(chan struct{})}
	c := &consoleConn{rw: s, turn: make(chan struct{}, 1), gone: make(chan struct{})}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	_, err := c.write(ctx, []byte("x"))
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	_, err = c.write(ctx, []byte("y"))
	assert.ErrorIs(t, err, context.DeadlineExceeded, "the turn is not free")
	close(s.free)
	n, err := c.write(within(t), []byte("zz"))
	assert.NoError(t, err)
	assert.Equal(t, 2, n)
	close(c.gone)
	c.turn <- struct{}{}
	_, err = c.write(within(t), []byte("x"))
	assert.ErrorIs(t, err, hypervisor.ErrHypervisorNotRunning)

	// With deadlines nothing is left behind.
	near, far := net.Pipe()
	defer far.Close()
	defer near.Close()
	c = &consoleConn{rw: near, turn: make(chan struct{}, 1), gone: make(chan struct{})}
	_, err = c.write(ctx, []byte("x"))
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	go io.ReadFull(far, make([]byte, 5))
	n, err = c.write(within(t), []byte("again"))
	assert.NoError(t, err)
	assert.Equal(t, 5, n)
}
