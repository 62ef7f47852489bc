//go:build linux

package vhostuser

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/vsock"
)

func readAll(t *testing.T, c net.Conn) string {
	t.Helper()
	b, err := io.ReadAll(c)
	require.NoError(t, err)
	return string(b)
}

// TestHostConnects takes a stream from the host through its life, with each
// kind of ring and buffer.
func TestHostConnects(t *testing.T) {
	const all = 1<<32 | 1<<30 | 1<<29 | 1<<28
	for name, tt := range map[string]struct {
		features uint64
		style    rxStyle
	}{
		"6.1":            {all, linux61},
		"6.12":           {all, linux612},
		"no event index": {all &^ (1 << 29), linux61},
		"no indirect":    {all &^ (1 << 28), linux612},
		"bare":           {1<<32 | 1<<30, linux61},
		"tables":         {all, rxStyle{bytes: 1000, indirect: true, pieces: 5}},
		"tiny buffers":   {all, rxStyle{bytes: headerSize + 1, one: true}},
	} {
		t.Run(name, func(t *testing.T) {
			v := newFakeVM(t, nil)
			v.features, v.style = tt.features, tt.style
			v.boot()
			c, p := v.connect(1024)
			_, err := io.WriteString(c, "to the guest")
			require.NoError(t, err)
			var got []byte
			for len(got) < len("to the guest") {
				q := v.expect(opRW)
				assert.Equal(t, []uint32{p.host, p.port}, []uint32{q.srcPort, q.dstPort})
				got = append(got, q.data...)
			}
			assert.Equal(t, "to the guest", string(got))
			p.send(opRW, []byte("to the "))
			p.send(opRW, []byte("host"))
			p.shutdown(shutSend)
			assert.Equal(t, "to the host", readAll(t, c))
			_, err = io.WriteString(c, "!") // our direction is open still
			require.NoError(t, err)
			assert.Equal(t, "!", string(v.expect(opRW).data))
			require.NoError(t, c.CloseWrite())
			// Nothing is left to do in either direction.
			assert.EqualValues(t, shutBoth, v.expect(opShutdown).flags)
			p.send(opReset, nil)
			v.settled()
			v.echoes()
		})
	}
}

func TestHostHalfCloses(t *testing.T) {
	v := newFakeVM(t, nil)
	v.boot()
	c, p := v.connect(1)
	_, err := io.WriteString(c, "all I have")
	require.NoError(t, err)
	require.NoError(t, c.CloseWrite())
	assert.Equal(t, "all I have", string(v.expect(opRW).data))
	assert.EqualValues(t, shutSend, v.expect(opShutdown).flags)
	p.send(opRW, bytes.Repeat([]byte("x"), 1000))
	p.shutdown(shutBoth) // the guest's close
	assert.Len(t, readAll(t, c), 1000)
	v.expect(opReset)
	v.settled()
}

func TestHostClosesWithBytesUnderWay(t *testing.T) {
	v := newFakeVM(t, nil)
	v.boot()
	c, p := v.connect(1)
	big := bytes.Repeat([]byte("0123456789abcdef"), 10000)
	go func() {
		_, _ = c.Write(big)
		_ = c.Close()
	}()
	var got []byte
	for {
		q, ok := v.recv(patience)
		require.True(t, ok)
		if q.op == opShutdown {
			assert.EqualValues(t, shutSend, q.flags&shutSend)
			if q.flags == shutBoth {
				break
			}
			continue
		}
		require.Equal(t, opRW, q.op)
		got = append(got, q.data...)
		p.fwd += uint32(len(q.data))
		p.send(opCreditUpdate, nil)
	}
	assert.True(t, bytes.Equal(big, got))
	p.send(opReset, nil)
	v.settled()
}

func TestHostCloses(t *testing.T) {
	v := newFakeVM(t, nil)
	v.boot()
	c, p := v.connect(1)
	require.NoError(t, c.Close())
	v.expectShutdown()
	// What was under way is dropped, and answered by nothing.
	p.send(opRW, []byte("late"))
	p.send(opCreditUpdate, nil)
	v.silence()
	assert.Equal(t, 1, v.status().Streams, "until the guest confirms")
	p.shutdown(shutBoth)
	v.expect(opReset)
	v.settled()
}

func TestGuestClosesReading(t *testing.T) {
	v := newFakeVM(t, nil)
	v.boot()
	c, p := v.connect(1)
	p.shutdown(shutReceive)
	v.drained()
	_, err := c.Write([]byte("x"))
	require.ErrorIs(t, err, syscall.EPIPE, "the writer is told")
	p.send(opRW, []byte("still talking"))
	p.shutdown(shutSend)
	assert.Equal(t, "still talking", readAll(t, c))
	v.expect(opReset) // both sides are shut
	v.settled()
}

func TestGuestResets(t *testing.T) {
	v := newFakeVM(t, nil)
	v.boot()
	c, p := v.connect(1)
	p.send(opRW, []byte("last words"))
	p.send(opReset, nil)
	assert.Equal(t, "last words", readAll(t, c))
	v.settled()
}

func TestGuestRefuses(t *testing.T) {
	v := newFakeVM(t, nil)
	v.boot()
	ch := v.dialling(999)
	q := v.expect(opRequest)
	(&peer{v: v, host: q.srcPort, port: 999}).send(opReset, nil)
	assert.ErrorIs(t, (<-ch).err, vsock.ErrRefused)
	v.settled()
	assert.EqualValues(t, 1, v.status().Refused)
}

func TestGuestDoesNotAnswer(t *testing.T) {
	v := newFakeVM(t, func(c *Config) { c.RequestTimeout = 20 * time.Millisecond })
	v.boot()
	ch := v.dialling(999)
	q := v.expect(opRequest)
	require.Error(t, (<-ch).err)
	r := v.expect(opReset)
	assert.Equal(t, []uint32{q.srcPort, 999}, []uint32{r.srcPort, r.dstPort})
	v.settled()
}

func TestGuestDoesNotConfirm(t *testing.T) {
	v := newFakeVM(t, func(c *Config) { c.LingerTimeout = 20 * time.Millisecond })
	v.boot()
	c, _ := v.connect(1)
	require.NoError(t, c.Close())
	v.expectShutdown()
	v.expect(opReset)
	v.settled()
}

func TestHostGivesUp(t *testing.T) {
	v := newFakeVM(t, nil)
	v.boot()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { _, err := v.hybrid().DialVsock(ctx, 5); done <- err }()
	q := v.expect(opRequest)
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	v.expect(opReset)
	// An answer that crossed ours belongs to no stream.
	(&peer{v: v, host: q.srcPort, port: 5}).send(opResponse, nil)
	v.expect(opReset)
	v.settled()
}

func TestGuestConnects(t *testing.T) {
	v := newFakeVM(t, nil)
	v.boot()
	l := v.listen(1234)
	c, p, r := v.connectHost(l, 1234)
	assert.NotZero(t, r.bufAlloc)
	p.send(opRW, []byte("hello host"))
	b := make([]byte, 10)
	_, err := io.ReadFull(c, b)
	require.NoError(t, err)
	assert.Equal(t, "hello host", string(b))
	_, err = io.WriteString(c, "hello guest")
	require.NoError(t, err)
	assert.Equal(t, "hello guest", string(v.expect(opRW).data))
	require.NoError(t, c.Close())
	v.expectShutdown()
	p.send(opReset, nil)
	v.settled()

	for _, port := range []uint32{1235, 0, 1<<32 - 1} { // nobody there, never can be
		p := &peer{v: v, host: port, port: 77}
		p.send(opRequest, nil)
		r := v.expect(opReset)
		assert.Equal(t, []uint32{port, 77}, []uint32{r.srcPort, r.dstPort})
	}
	// A file that only looks like a listener.
	require.NoError(t, os.WriteFile(v.cfg.HostSocket+"_9", nil, 0o600))
	(&peer{v: v, host: 9, port: 77}).send(opRequest, nil)
	v.expect(opReset)
	v.settled()
}

func TestNoDriver(t *testing.T) {
	v := newFakeVM(t, nil)
	_, err := v.hybrid().DialVsock(t.Context(), 7)
	assert.ErrorIs(t, err, vsock.ErrRefused)
	st := v.status()
	assert.True(t, st.QEMU)
	assert.False(t, st.Running)
	v.boot()
	assert.True(t, v.status().Running)
	v.echoes()
}

func TestCommands(t *testing.T) {
	v := newFakeVM(t, func(c *Config) { c.HandshakeTimeout = 200 * time.Millisecond })
	v.boot()
	say := func(s string) string {
		c, err := net.Dial("unix", v.cfg.HostSocket)
		require.NoError(t, err)
		defer func() { _ = c.Close() }()
		require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
		for _, part := range strings.SplitAfter(s, "|") {
			_, err = io.WriteString(c, strings.TrimSuffix(part, "|"))
			require.NoError(t, err)
			time.Sleep(time.Millisecond)
		}
		b, _ := io.ReadAll(c) // a reset is as good an end as any
		return string(b)
	}
	for _, bad := range []string{
		"CONNECT 0\n", "CONNECT 4294967295\n", "CONNECT 99999999999999\n", "CONNECT -1\n", "CONNECT ssh\n", "CONNECT \n",
		"CONNECT\n", "connect 7\n", "CONNECT 7\r\n", "\n", "GET / HTTP/1.0\n", strings.Repeat("x", 100), "CONNECT 7", "",
	} {
		assert.Empty(t, say(bad), "%q", bad)
	}
	assert.Contains(t, say("STA|TUS|\n"), `"cid":42`)
	v.silence()
	v.settled()
	st := v.status()
	assert.EqualValues(t, 42, st.CID)
	v.echoes()

	_, err := GetStatus(t.Context(), v.cfg.HostSocket+"no")
	assert.ErrorIs(t, err, vsock.ErrUnavailable)
}

// TestCommandAndBytesAtOnce is a client that does not wait for its answer.
func TestCommandAndBytesAtOnce(t *testing.T) {
	v := newFakeVM(t, nil)
	v.boot()
	c, err := net.Dial("unix", v.cfg.HostSocket)
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	_, err = io.WriteString(c, "CONNECT 7\nhello\n")
	require.NoError(t, err)
	require.NoError(t, c.(*net.UnixConn).CloseWrite())
	q := v.expect(opRequest)
	p := &peer{v: v, host: q.srcPort, port: q.dstPort, alloc: 1000}
	p.send(opResponse, nil)
	assert.Equal(t, "hello\n", string(v.expect(opRW).data))
	assert.EqualValues(t, shutSend, v.expect(opShutdown).flags)
	p.send(opRW, []byte("bye"))
	p.shutdown(shutBoth)
	assert.Regexp(t, `^OK \d+\nbye$`, readAll(t, c))
}

func TestLimitOfStreams(t *testing.T) {
	v := newFakeVM(t, func(c *Config) { c.MaxStreams = 2 })
	v.boot()
	a, p := v.connect(1)
	v.connect(2)
	_, err := v.hybrid().DialVsock(t.Context(), 3)
	require.ErrorIs(t, err, vsock.ErrRefused)
	l := v.listen(4)
	(&peer{v: v, host: 4, port: 5}).send(opRequest, nil)
	v.expect(opReset)
	_ = l.Close()
	assert.Equal(t, 2, v.status().Streams)
	require.NoError(t, a.Close())
	v.expectShutdown()
	p.send(opReset, nil)
	v.connect(3)
}

func TestManyHandshakes(t *testing.T) {
	v := newFakeVM(t, func(c *Config) { c.HandshakeTimeout = 50 * time.Millisecond })
	v.boot()
	for range 2*maxHandshakes + 3 {
		c, err := net.Dial("unix", v.cfg.HostSocket)
		require.NoError(t, err)
		defer func() { _ = c.Close() }()
	}
	v.echoes() // after those that say nothing have been cut off
}

func TestEndsWithItsVM(t *testing.T) {
	v := newFakeVM(t, nil)
	v.boot()
	c, _ := v.connect(7)
	v.hangUp()
	_, err := c.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	v.wait()
	assert.NoError(t, v.err)
	assert.NoFileExists(t, v.cfg.HostSocket)
	assert.NoFileExists(t, v.cfg.HostSocket+".state")
}

func TestQEMUNeverComes(t *testing.T) {
	dir := shortDir(t)
	d, err := New(Config{QEMUSocket: dir + "/q", HostSocket: dir + "/v", CID: 3, ConnectTimeout: 20 * time.Millisecond, Logger: testLog(t)})
	require.NoError(t, err)
	err = d.Run(t.Context())
	assert.ErrorIs(t, err, os.ErrNotExist)
	assert.ErrorContains(t, err, "vsock device of CID 3: reach QEMU at "+dir+"/q")
	assert.NoFileExists(t, dir+"/v")
}

func TestStopTellsTheGuest(t *testing.T) {
	v := newFakeVM(t, nil)
	v.boot()
	c, p := v.connect(7)
	v.stop()
	assert.ErrorIs(t, v.err, context.Canceled)
	r := v.expect(opReset)
	assert.Equal(t, []uint32{p.host, p.port}, []uint32{r.srcPort, r.dstPort})
	_, err := c.Read(make([]byte, 1))
	assert.ErrorIs(t, err, io.EOF)
	assert.NoFileExists(t, v.cfg.HostSocket)
	assert.FileExists(t, v.cfg.HostSocket+".state")
}

func TestSecondDeviceIsKeptOut(t *testing.T) {
	v := newFakeVM(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	d, err := New(v.cfg)
	require.NoError(t, err)
	err = d.Run(ctx)
	assert.ErrorIs(t, err, ErrRunning)
	v.boot()
	v.echoes()
}

func TestMainIsRun(t *testing.T) {
	procs, gc := runtime.GOMAXPROCS(0), debug.SetGCPercent(100)
	defer func() { runtime.GOMAXPROCS(procs); debug.SetGCPercent(gc) }()
	dir := shortDir(t)
	err := Main(t.Context(), Config{})
	assert.ErrorContains(t, err, "bad CID")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	assert.NoError(t, Main(ctx, Config{QEMUSocket: dir + "/q", HostSocket: dir + "/v", CID: 3}))
}

func TestConfig(t *testing.T) {
	good := Config{QEMUSocket: "/q", HostSocket: "/v", CID: 3}
	c, err := good.withDefaults()
	require.NoError(t, err)
	assert.Equal(t, "/v.state", c.StatePath)
	assert.Equal(t, DefaultMaxStreams, c.MaxStreams)
	for name, change := range map[string]func(*Config){
		"no CID":       func(c *Config) { c.CID = 0 },
		"host's CID":   func(c *Config) { c.CID = 2 },
		"any CID":      func(c *Config) { c.CID = 1<<32 - 1 },
		"no QEMU":      func(c *Config) { c.QEMUSocket = "" },
		"no host":      func(c *Config) { c.HostSocket = "" },
		"long host":    func(c *Config) { c.HostSocket = "/" + strings.Repeat("x", 100) },
		"streams":      func(c *Config) { c.MaxStreams = -1 },
		"many streams": func(c *Config) { c.MaxStreams = 1 << 20 },
		"buffer":       func(c *Config) { c.StreamBuffer = 1 },
		"buffers":      func(c *Config) { c.MaxBuffered = 1 << 40 },
	} {
		c := good
		change(&c)
		_, err := New(c)
		assert.Error(t, err, name)
	}
}

// TestConnectAfterIdleness is a client who comes after nothing has happened for
// longer than a handshake may take, and then says what it wants in good time.
func TestConnectAfterIdleness(t *testing.T) {
	v := newFakeVM(t, func(c *Config) { c.HandshakeTimeout = 300 * time.Millisecond })
	v.boot()
	v.settled()
	time.Sleep(400 * time.Millisecond) // the idleness
	c, err := net.Dial("unix", v.cfg.HostSocket)
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	time.Sleep(20 * time.Millisecond) // the device has accepted it and looked at its timers
	_, err = io.WriteString(c, "STATUS\n")
	require.NoError(t, err)
	b, err := io.ReadAll(c)
	require.NoError(t, err)
	assert.Contains(t, string(b), `"cid":42`)
}
