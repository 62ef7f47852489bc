package ninep

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hugelgupf/p9/p9"
	"github.com/stretchr/testify/require"

	"vmfs/ninep/dial"
)

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// logBuf is a log that a test can look into.
type logBuf struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuf) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuf) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// testServer is a server on a Unix socket that ends with the test, and must
// then leave no goroutine and no open File behind.
type testServer struct {
	*Server
	addr string
	log  *logBuf
	t    testing.TB
	mem  *memFS // nil if the tree is another
}

func serve(t testing.TB, a p9.Attacher, set ...func(*Server)) *testServer {
	t.Helper()
	checkLeaks(t)
	dir, err := os.MkdirTemp("/tmp", "vmfs")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	ts := &testServer{log: new(logBuf), t: t, addr: "unix!" + filepath.Join(dir, "s")}
	ts.Server = &Server{Attacher: a, Log: slog.New(slog.NewTextHandler(ts.log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	for _, fn := range set {
		fn(ts.Server)
	}
	ts.mem, _ = a.(*memFS)
	ln, err := dial.Listen(context.Background(), ts.addr)
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- ts.Serve(context.Background(), ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		require.NoError(t, ts.Shutdown(ctx))
		require.NoError(t, <-done)
		if ts.mem != nil {
			require.Zero(t, ts.mem.open.Load(), "Files left open")
		}
	})
	return ts
}

func (ts *testServer) dial() net.Conn {
	ts.t.Helper()
	conn, err := dial.Dial(context.Background(), ts.addr)
	require.NoError(ts.t, err)
	ts.t.Cleanup(func() { conn.Close() })
	return conn
}

// checkLeaks fails the test if goroutines of this package outlive it.
func checkLeaks(t testing.TB) {
	before := ninepGoroutines()
	t.Cleanup(func() {
		deadline := time.Now().Add(patience)
		for {
			now := ninepGoroutines()
			if len(now) <= len(before) {
				return
			}
			if time.Now().After(deadline) {
				t.Errorf("goroutines leaked:\n%s", strings.Join(now, "\n\n"))
				return
			}
			runtime.Gosched()
			time.Sleep(time.Millisecond)
		}
	})
}

func ninepGoroutines() (list []string) {
	buf := make([]byte, 4<<20)
	buf = buf[:runtime.Stack(buf, true)]
	for _, g := range strings.Split(string(buf), "\n\n") {
		if strings.Contains(g, "vmfs/ninep.(*conn)") || strings.Contains(g, "vmfs/ninep.(*session)") || strings.Contains(g, "vmfs/ninep.(*Server)") {
			if !strings.Contains(g, "testing.tRunner(") {
				list = append(list, g)
			}
		}
	}
	return list
}

// eventually waits for a condition that no event announces.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("never came: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// take takes one event, which must come.
func take[T any](t testing.TB, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("never came: %s", what)
		panic("unreachable")
	}
}

func give[T any](t testing.TB, what string, c chan<- T, v T) {
	t.Helper()
	select {
	case c <- v:
	case <-time.After(patience):
		t.Fatalf("never taken: %s", what)
	}
}

// basicTree is the tree of most tests.
func basicTree() *memFS {
	fs := newMemFS()
	fs.file("a", "alpha\n")
	fs.file("b", "beta\n")
	fs.file("dir/sub/deep", "down here\n")
	fs.file("dir/x", "x\n")
	fs.add("empty", fs.node(p9.ModeDirectory|0o755))
	fs.add("link", fs.node(p9.ModeSymlink|0o777)).target = "a"
	fs.file("boom", "").panics = true
	fs.add("slow", fs.node(p9.ModeDirectory|0o755)).slow = true
	return fs
}

var _ = fmt.Sprint
