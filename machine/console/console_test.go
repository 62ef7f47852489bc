package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/machine/console/consoletest"
)

// newLog returns a log with notices and a file of its own.
func newLog(t *testing.T) *Log {
	n, err := NewNotifier()
	require.NoError(t, err)
	c := NewLog(n)
	t.Cleanup(n.Close)
	t.Cleanup(c.Close)
	c.Use(filepath.Join(t.TempDir(), "console.log"), true)
	return c
}

func TestBound(t *testing.T) {
	c := newLog(t)
	require.NoError(t, c.Prepare())
	slow, live := c.Open(), c.Open()
	defer slow.Close()
	defer live.Close()
	consoletest.Bulk(t, c.path, 0, 10)
	consoletest.ReadUntil(t, t.Context(), slow, "\n")
	consoletest.ReadUntil(t, t.Context(), live, fmt.Sprintf("%063d\n", 9))
	const per = 1 << 20 / 64
	last := 10
	p := make([]byte, 1<<20)
	got := last * 64
	for range 12 {
		consoletest.Bulk(t, c.path, last, per)
		last += per
		require.NoError(t, c.Trim())
		for got < last*64 {
			n, err := live.Read(t.Context(), p)
			require.NoError(t, err)
			require.Equal(t, fmt.Sprintf("%063d\n", got/64), string(p[:64]))
			got += n
			require.Zero(t, got%64)
		}
	}
	assert.Equal(t, last*64, got, "who keeps up loses nothing")
	n, err := slow.Read(t.Context(), p[:64])
	require.NoError(t, err)
	require.Equal(t, 64, n)
	assert.NotContains(t, string(p[:64]), "\x00", "who does not never sees a hole")

	fresh := c.Open()
	defer fresh.Close()
	text := consoletest.ReadUntil(t, t.Context(), fresh, fmt.Sprintf("%063d\n", last-1))
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
	consoletest.Bulk(t, c.path, last, 1)
	n, err = live.Read(t.Context(), p)
	require.NoError(t, err)
	assert.Equal(t, fmt.Sprintf("%063d\n", last), string(p[:n]))
	fi, err = os.Stat(c.path + ".1")
	require.NoError(t, err)
	assert.Equal(t, int64(keepConsole), fi.Size())
}

// A file that is mostly hole is made small again while nobody writes it.
func TestShrinks(t *testing.T) {
	c := newLog(t)
	require.NoError(t, c.Prepare())
	require.NoError(t, os.Truncate(c.path, bigConsole))
	consoletest.Bulk(t, c.path, 0, keepConsole/64)
	r := c.Open()
	defer r.Close()
	consoletest.ReadUntil(t, t.Context(), r, fmt.Sprintf("%063d\n", keepConsole/64-1))
	require.NoError(t, c.Prepare())
	fi, err := os.Stat(c.path)
	require.NoError(t, err)
	assert.Equal(t, int64(keepConsole), fi.Size())
	consoletest.Bulk(t, c.path, 7, 1)
	assert.Equal(t, fmt.Sprintf("%063d\n", 7), consoletest.ReadUntil(t, t.Context(), r, "\n"), "a reader goes on where it was")
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

func TestInputBlocks(t *testing.T) {
	s := stuck{free: make(chan struct{})}
	c := &conn{rw: s, turn: make(chan struct{}, 1), gone: make(chan struct{})}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	_, err := c.write(ctx, []byte("x"))
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	_, err = c.write(ctx, []byte("y"))
	assert.ErrorIs(t, err, context.DeadlineExceeded, "the turn is not free")
	close(s.free)
	n, err := c.write(t.Context(), []byte("zz"))
	assert.NoError(t, err)
	assert.Equal(t, 2, n)
	close(c.gone)
	c.turn <- struct{}{}
	_, err = c.write(t.Context(), []byte("x"))
	assert.ErrorIs(t, err, hypervisor.ErrHypervisorNotRunning)

	// With deadlines nothing is left behind.
	near, far := net.Pipe()
	defer far.Close()
	defer near.Close()
	c = &conn{rw: near, turn: make(chan struct{}, 1), gone: make(chan struct{})}
	_, err = c.write(ctx, []byte("x"))
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	go io.ReadFull(far, make([]byte, 5))
	n, err = c.write(t.Context(), []byte("again"))
	assert.NoError(t, err)
	assert.Equal(t, 5, n)
}

// guest is a VMM with a console at which somebody echoes what is typed.
type guest struct {
	hypervisor.Hypervisor
	conns chan *line
}

// line is a connection that has been taken whole once it was echoed.
type line struct {
	net.Conn
	taken atomic.Bool
	done  chan struct{} // closed by Close
	once  sync.Once
}

// Read fails as that of a socket does once it was closed here.
func (l *line) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	if errors.Is(err, io.ErrClosedPipe) {
		err = net.ErrClosed
	}
	return n, err
}

func (l *line) Drained() bool { return l.taken.Load() }

func (l *line) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.Conn.Close()
}

func (g *guest) OpenConsole(context.Context) (io.ReadWriteCloser, error) {
	near, far := net.Pipe()
	l := &line{Conn: near, done: make(chan struct{})}
	go func() {
		b := make([]byte, 100)
		for {
			n, err := far.Read(b)
			if err != nil {
				return
			}
			far.Write(b[:n])
			l.taken.Store(true)
		}
	}()
	g.conns <- l
	return l, nil
}

// Nobody is connected who does not type, and who types is connected again.
func TestInputConnects(t *testing.T) {
	in := NewInput(newLog(t), slog.New(slog.DiscardHandler), time.Minute)
	g := &guest{conns: make(chan *line, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan struct{})
	go func() { defer close(ran); in.Run(ctx, g) }()
	for range 20 {
		n, err := in.Write(t.Context(), []byte("hello"))
		require.NoError(t, err)
		assert.Equal(t, 5, n)
		<-(<-g.conns).done
	}
	cancel()
	<-ran

	// Without a connection a write waits, and says why it ends.
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err := in.Write(short, []byte("x"))
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	waits := make(chan error, 1)
	go func() { _, err := in.Write(t.Context(), []byte("x")); waits <- err }()
	in.End()
	assert.ErrorIs(t, <-waits, hypervisor.ErrHypervisorNotRunning)

	// A VMM without a console to type at says so.
	in = NewInput(newLog(t), slog.New(slog.DiscardHandler), time.Minute)
	in.Run(t.Context(), nil)
	_, err = in.Write(t.Context(), []byte("x"))
	assert.ErrorIs(t, err, hypervisor.ErrNotSupported)
}

// Every name of a file has its notices, and none when its watch has stopped.
func TestNotifier(t *testing.T) {
	n, err := NewNotifier()
	require.NoError(t, err)
	defer n.Close()
	dir := t.TempDir()
	path, link := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	require.NoError(t, os.Symlink(path, link))
	assert.Nil(t, n.watch(filepath.Join(dir, "none"), func() {}))
	one, two := make(chan struct{}, 1), make(chan struct{}, 1)
	tell := func(c chan struct{}) func() {
		return func() {
			select {
			case c <- struct{}{}:
			default:
			}
		}
	}
	w1, w2 := n.watch(path, tell(one)), n.watch(link, tell(two))
	write := func() { require.NoError(t, os.WriteFile(path, []byte("x"), 0o600)) }
	write()
	<-one
	<-two
	w1.stop()
	write()
	<-two
	w2.stop()
	assert.Empty(t, n.w.WatchList())
	n.tell("") // as where notices were lost
}
