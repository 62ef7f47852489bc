package control_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/guest/control"
)

// clock is a guest's clock that can be set.
type clock struct {
	mu sync.Mutex // guards at
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) set(t time.Time) error {
	if t.Year() > 2100 {
		return errors.New("no such\nyear")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = t
	return nil
}

// pipe serves g on one end of a pipe and returns the other.
func pipe(t *testing.T, g *control.Guest) net.Conn {
	t.Helper()
	host, guest := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		g.Serve(guest)
		guest.Close()
	}()
	t.Cleanup(func() {
		host.Close()
		<-done
	})
	return host
}

func whole() *control.Guest {
	c := &clock{at: time.Unix(1000, 0)}
	return &control.Guest{
		Memory: func() (control.Memory, error) {
			return control.Memory{Actual: 512 << 20, Available: 400 << 20}, nil
		},
		Now: c.now, SetClock: c.set,
	}
}

func TestClient(t *testing.T) {
	c := control.NewClient(pipe(t, whole()))
	ctx := t.Context()
	a, err := c.Hello(ctx)
	require.NoError(t, err)
	assert.Equal(t, control.Agent{Version: 1, Requests: []string{"hello", "memory", "clock"}}, a)
	m, err := c.Memory(ctx)
	require.NoError(t, err)
	assert.Equal(t, control.Memory{Actual: 512 << 20, Available: 400 << 20}, m)
	now, err := c.Clock(ctx)
	require.NoError(t, err)
	assert.Equal(t, time.Unix(1000, 0), now)
	step, err := c.SetClock(ctx, time.Unix(1007, 500_000_000))
	require.NoError(t, err)
	assert.Equal(t, 7500*time.Millisecond, step)
	step, err = c.SetClock(ctx, time.Unix(1000, 0))
	require.NoError(t, err)
	assert.Equal(t, -7500*time.Millisecond, step, "back")
	now, err = c.Clock(ctx)
	require.NoError(t, err)
	assert.Equal(t, time.Unix(1000, 0), now)

	// A refusal is no end of the stream.
	_, err = c.SetClock(ctx, time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC))
	var refusal *control.Refusal
	require.ErrorAs(t, err, &refusal)
	assert.Equal(t, control.Refusal{Code: control.CodeFailed, Text: "no such year"}, *refusal)
	_, err = c.SetClock(ctx, time.Unix(-5, 0))
	require.ErrorAs(t, err, &refusal)
	assert.Equal(t, control.CodeInvalid, refusal.Code)
	_, err = c.Memory(ctx)
	assert.NoError(t, err)
}

// An agent that cannot do a thing has no request for it.
func TestLess(t *testing.T) {
	c := control.NewClient(pipe(t, &control.Guest{Memory: whole().Memory}))
	a, err := c.Hello(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []string{"hello", "memory"}, a.Requests)
	_, err = c.SetClock(t.Context(), time.Now())
	var refusal *control.Refusal
	require.ErrorAs(t, err, &refusal)
	assert.Equal(t, control.CodeUnknown, refusal.Code)
}

// What a person types, and what none should.
func TestLines(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"hello\n", "ok version=1 requests=hello,memory,clock\n"},
		{"  memory \r\n", "ok actual=536870912 available=419430400\n"},
		{"memory\nclock\n", "ok actual=536870912 available=419430400\nok unix=1000.000000000\n"},
		{"clock set=1000.5\n", "ok unix=1000.500000000 step=0.500000000\n"},
		{"clock set=1001\n", "ok unix=1001.000000000 step=1.000000000\n"},
		{"reseed\n", "error unknown there is no request \"reseed\"\n"},
		{"memory set=1\n", "error invalid memory has the keys [] and no others\n"},
		{"clock set=1 set=2\n", "error invalid not the protocol of the control port: set= twice\n"},
		{"clock now\n", "error invalid not the protocol of the control port: \"now\" is not KEY=VALUE\n"},
		{"clock set=\n", "error invalid not the protocol of the control port: \"\" is not a time in seconds\n"},
		{"clock set=+1\n", "error invalid not the protocol of the control port: \"+1\" is not a time in seconds\n"},
		{"clock set=1.0000000001\n", "error invalid not the protocol of the control port: \"1.0000000001\" is not a time in seconds\n"},
		{"clock set=9223372036854775807\n", "error invalid not the protocol of the control port: time \"9223372036854775807\" is too far off\n"},
		{"\n", "error invalid not the protocol of the control port: an empty line\n"},
		{"memory", "error invalid not the protocol of the control port: it ends within a line\n"},
		{strings.Repeat("x", control.MaxLine) + "\nmemory\n", "error invalid not the protocol of the control port: a line of more than 4096 bytes\n"},
	} {
		conn := pipeHalf(t, whole())
		go func() {
			_, _ = io.WriteString(conn, c.in) // a service that refuses a line takes no more
			_ = conn.CloseWrite()
		}()
		got, err := io.ReadAll(conn)
		require.NoError(t, err, "%.20q", c.in)
		assert.Equal(t, c.want, string(got), "%.20q", c.in)
	}
}

// pipeHalf is pipe over a Unix socket, which has a half-close.
func pipeHalf(t *testing.T, g *control.Guest) *net.UnixConn {
	t.Helper()
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: t.TempDir() + "/s", Net: "unix"})
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := ln.Accept()
		ln.Close()
		if !assert.NoError(t, err) {
			return
		}
		g.Serve(c)
		c.(*net.UnixConn).CloseWrite()
		_, _ = io.Copy(io.Discard, c)
		c.Close()
	}()
	c, err := net.DialUnix("unix", nil, ln.Addr().(*net.UnixAddr))
	require.NoError(t, err)
	t.Cleanup(func() {
		c.Close()
		<-done
	})
	return c
}

// A guest that does not answer holds nobody beyond his context, and the stream is not
// used again: its answer may come yet.
func TestSilentGuest(t *testing.T) {
	host, guest := net.Pipe()
	defer guest.Close()
	c := control.NewClient(host)
	ctx, cancel := context.WithCancel(t.Context())
	read := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(guest).ReadString('\n')
		read <- line
		cancel()
	}()
	_, err := c.Memory(ctx)
	assert.ErrorIs(t, err, context.Canceled)
	assert.Equal(t, "memory\n", <-read)
	_, err = c.Memory(t.Context())
	assert.ErrorContains(t, err, "the stream has ended by an earlier request")
}

// Who waits for his turn obeys his context too.
func TestTurn(t *testing.T) {
	host, guest := net.Pipe()
	c := control.NewClient(host)
	got := make(chan error, 1)
	go func() {
		_, err := c.Memory(context.Background())
		got <- err
	}()
	_, err := bufio.NewReader(guest).ReadString('\n')
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.Clock(ctx)
	assert.ErrorIs(t, err, context.Canceled)
	_, err = io.WriteString(guest, "ok actual=1 available=1 later=thing\n")
	require.NoError(t, err)
	assert.NoError(t, <-got, "a key that is not known is none of ours")
	guest.Close()
	_, err = c.Memory(t.Context())
	assert.Error(t, err)
}

func TestBadAnswers(t *testing.T) {
	for _, answer := range []string{
		"what\n", "\n", "ok\n", "ok actual=-1 available=1\n", "ok actual=1\n", "ok actual=9223372036854775808 available=1\n",
		"ok actual", "", strings.Repeat("x", 5000),
	} {
		host, guest := net.Pipe()
		go func() {
			_, _ = bufio.NewReader(guest).ReadString('\n')
			_, _ = io.WriteString(guest, answer)
			guest.Close()
		}()
		_, err := control.NewClient(host).Memory(t.Context())
		assert.Error(t, err, "%.20q", answer)
		if strings.HasSuffix(answer, "\n") {
			assert.ErrorIs(t, err, control.ErrProtocol, answer)
		}
	}
}

type dialFunc func(context.Context, int) (net.Conn, error)

func (f dialFunc) DialVsock(ctx context.Context, port int) (net.Conn, error) { return f(ctx, port) }

func TestDial(t *testing.T) {
	host := pipe(t, whole())
	c, err := control.Dial(t.Context(), dialFunc(func(_ context.Context, port int) (net.Conn, error) {
		assert.Equal(t, 1026, port)
		return host, nil
	}))
	require.NoError(t, err)
	_, err = c.Hello(t.Context())
	assert.NoError(t, err)
	newer, guest := net.Pipe()
	go func() {
		_, _ = bufio.NewReader(guest).ReadString('\n')
		_, _ = io.WriteString(guest, "ok version=2 requests=hello\n")
	}()
	_, err = control.Dial(t.Context(), dialFunc(func(context.Context, int) (net.Conn, error) { return newer, nil }))
	assert.ErrorIs(t, err, control.ErrProtocol)
	_, err = newer.Write(nil)
	assert.ErrorIs(t, err, io.ErrClosedPipe)
	refused := errors.New("refused")
	_, err = control.Dial(t.Context(), dialFunc(func(context.Context, int) (net.Conn, error) { return nil, refused }))
	assert.ErrorIs(t, err, refused)
}

// No request, whatever its bytes, ends the service or has an answer that is not a line
// of the protocol.
func FuzzServe(f *testing.F) {
	for _, s := range []string{"memory\n", "clock set=1.5\nhello\n", "x=\x00\n", "clock set=" + strings.Repeat("9", 40)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		c := &conn{Reader: strings.NewReader(string(in))}
		whole().Serve(c)
		for line := range strings.Lines(c.out.String()) {
			word, _, _ := strings.Cut(strings.TrimRight(line, "\n"), " ")
			if word != "ok" && word != "error" || !strings.HasSuffix(line, "\n") || len(line) > control.MaxLine {
				t.Errorf("%q", line)
			}
		}
	})
}

// conn is a stream that reads what it is given and keeps what is written.
type conn struct {
	io.Reader
	out strings.Builder
	net.Conn
}

func (c *conn) Read(b []byte) (int, error)  { return c.Reader.Read(b) }
func (c *conn) Write(b []byte) (int, error) { return c.out.Write(b) }
