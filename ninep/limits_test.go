package ninep

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/ninep/dial"
	"vmfs/ninep/wire"
	"vmfs/ninep/wire/wiretest"
)

func openFds(t testing.TB) int {
	ents, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc to count descriptors in")
	}
	return len(ents)
}

// TestMalformedFrames throws ten thousand bad frames at a live listener, over
// many connections, while another client goes on with its work.
func TestMalformedFrames(t *testing.T) {
	fs := basicTree()
	ts := serve(t, fs)
	good := ts.raw("9P2000.L").attach()
	before := openFds(t)

	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			good.rpc("Twalk", "Rwalk", "fid", "0", "newfid", "1", "names", "a")
			good.rpc("Tlopen", "Rlopen", "fid", "1")
			good.rpc("Tread", "Rread", "fid", "1", "count", "100")
			good.rpc("Tclunk", "Rclunk", "fid", "1")
		}
	})
	const total, conns = 10000, 50
	for i := range conns {
		rnd := rand.New(rand.NewPCG(uint64(i), 1))
		versions := []string{"9P2000.L", "9P2000.L.Google.7", "9P2000", "9P2000.u", ""}
		v := versions[i%len(versions)]
		var c net.Conn
		if v == "" {
			c = ts.dial()
		} else {
			c = ts.raw(v)
		}
		drain := func(c net.Conn) { wg.Go(func() { _, _ = io.Copy(io.Discard, c) }) }
		drain(c)
		for range total / conns {
			if _, err := c.Write(badFrame(rnd)); err != nil {
				// Hung up on, as it should be; start again.
				c.Close()
				c = ts.dial()
				drain(c)
			}
		}
		c.Close()
	}
	close(stop)
	wg.Wait()
	good.rpc("Tgetattr", "Rgetattr", "fid", "0")
	eventually(t, "all descriptors closed", func() bool { return openFds(t) <= before })
	assert.Less(t, strings.Count(ts.log.String(), "level=WARN"), 3*total, "the log is flooded")
	assert.NotContains(t, ts.log.String(), "level=ERROR")
}

// badFrame makes a frame that is wrong in one of many ways.
func badFrame(rnd *rand.Rand) []byte {
	types := []uint8{8, 12, 14, 16, 18, 20, 22, 24, 26, 30, 32, 40, 50, 52, 54, 70, 72, 74, 76, 102, 104, 108, 110, 112, 114, 116, 118, 120, 122, 124, 126, 128, 130, 132, 134}
	b := make([]byte, wire.HeaderSize+rnd.IntN(60))
	for i := range b {
		b[i] = uint8(rnd.Uint32())
	}
	wire.PutHeader(b, wire.Type(types[rnd.IntN(len(types))]), uint16(rnd.Uint32()))
	switch rnd.IntN(8) {
	case 0: // a type that there is not
		b[4] = uint8(rnd.Uint32())
		if b[4] == 100 {
			b[4]++
		}
	case 1: // a reply
		b[4] |= 1
	case 2: // counts and lengths that run over
		for i := 7; i < len(b); i++ {
			b[i] = 0xff
		}
	case 3: // nothing in it
		b = b[:7]
		b[0] = 7
	case 4: // a length that cannot be
		if rnd.IntN(20) == 0 {
			b[0], b[1], b[2], b[3] = uint8(rnd.IntN(7)), 0, 0, 0
		}
	case 5:
		if rnd.IntN(20) == 0 {
			b[3] = 0xff
		}
	}
	return b
}

// TestHangup sees that the files of a client that is gone are closed and what
// it waited for is cancelled, and nobody else notices.
func TestHangup(t *testing.T) {
	fs := basicTree()
	st := fs.streamFile("s")
	ts := serve(t, fs)
	other := ts.raw("9P2000.L").attach()
	c := ts.raw("9P2000.L").attach()
	for fid := range 10 {
		n := string(rune('0' + fid))
		c.rpc("Twalk", "Rwalk", "fid", "0", "newfid", "1"+n, "names", "s")
		c.rpc("Tlopen", "Rlopen", "fid", "1"+n, "flags", "2")
		c.send("Tread", uint16(100+fid), "fid", "1"+n, "count", "10")
		take(t, "read", st.waiting)
	}
	start := time.Now()
	c.Close()
	for range 10 {
		take(t, "close", st.closed)
	}
	assert.Less(t, time.Since(start), 10*time.Second)
	other.rpc("Tgetattr", "Rgetattr", "fid", "0")
}

// TestAbandon: a file is closed by a clunk, whatever that has room for, and abandoned
// when its client begins another session or hangs up.
func TestAbandon(t *testing.T) {
	fs := basicTree()
	st, other := fs.streamFile("s"), fs.streamFile("r")
	ts := serve(t, fs, func(s *Server) { s.Limits.Requests = 1 })
	c := ts.raw("9P2000.L").attach()
	open := func(fid, name string) {
		c.rpc("Twalk", "Rwalk", "fid", "0", "newfid", fid, "names", name)
		c.rpc("Tlopen", "Rlopen", "fid", fid, "flags", "2")
	}
	open("1", "s")
	c.rpc("Tclunk", "Rclunk", "fid", "1")
	assert.Equal(t, "closed", take(t, "close", st.closed))
	open("1", "s")
	open("2", "r")
	c.send("Tread", 100, "fid", "2", "count", "10")
	take(t, "read", other.waiting)
	c.rpc("Tclunk", "Rclunk", "fid", "1") // with no request to spare
	assert.Equal(t, "closed", take(t, "close", st.closed))
	c.send("Tflush", 50, "oldtag", "100")
	c.want("Rlerror", 100, "ecode", "EINTR")
	c.want("Rflush", 50)
	open("1", "s")
	c.rpc("Tversion", "Rversion", "msize", "8192", "version", "9P2000.L")
	assert.Equal(t, "abandoned", take(t, "close", st.closed))
	assert.Equal(t, "abandoned", take(t, "close", other.closed))
	c.attach()
	open("1", "s")
	require.NoError(t, c.Close())
	assert.Equal(t, "abandoned", take(t, "close", st.closed))
}

// TestSlowFrame hangs up on a client that begins a message and does not finish
// it, and one that says nothing at all.
func TestSlowFrame(t *testing.T) {
	ts := serve(t, basicTree(), func(s *Server) {
		s.Limits.Frame = 50 * time.Millisecond
		s.Limits.Handshake = 50 * time.Millisecond
	})
	c := ts.raw("9P2000.L").attach()
	time.Sleep(100 * time.Millisecond) // idle is no fault
	c.rpc("Tgetattr", "Rgetattr", "fid", "0")
	_, err := c.Write([]byte{20, 0, 0, 0, 24})
	require.NoError(t, err)
	_, err = c.recvFrame()
	assert.ErrorIs(t, err, io.EOF)
	eventually(t, "log", func() bool { return strings.Contains(ts.log.String(), errSlowFrame.Error()) })

	mute := &rawClient{t: t, Conn: ts.dial()}
	_, err = mute.recvFrame()
	assert.ErrorIs(t, err, io.EOF)
	eventually(t, "log", func() bool { return strings.Contains(ts.log.String(), errNoHello.Error()) })
}

// TestUnreadReplies ends a client that asks and asks and reads nothing. Its
// requests are not even read once too many replies wait.
func TestUnreadReplies(t *testing.T) {
	fs := basicTree()
	fs.file("big", strings.Repeat("x", 60000))
	ts := serve(t, fs, func(s *Server) { s.Limits.Write = 300 * time.Millisecond })
	c := ts.raw("9P2000.L").attach()
	c.rpc("Twalk", "Rwalk", "fid", "0", "newfid", "1", "names", "big")
	c.rpc("Tlopen", "Rlopen", "fid", "1")
	other := ts.raw("9P2000.L").attach()
	frame := wiretest.Encode("9P2000.L", "Tread", 9, map[string]string{"fid": "1", "count": "60000"})
	var sent int
	for {
		_ = c.SetWriteDeadline(time.Now().Add(patience))
		if _, err := c.Write(frame); err != nil {
			assert.False(t, errors.Is(err, os.ErrDeadlineExceeded), "not hung up on")
			break
		}
		if sent++; sent%10 == 0 {
			start := time.Now()
			other.rpc("Tgetattr", "Rgetattr", "fid", "0")
			require.Less(t, time.Since(start), 5*time.Second)
		}
	}
	eventually(t, "log", func() bool { return strings.Contains(ts.log.String(), errNoReader.Error()) })
	other.rpc("Tgetattr", "Rgetattr", "fid", "0")
}

// TestFidLimit refuses one fid too many, and goes on.
func TestFidLimit(t *testing.T) {
	ts := serve(t, basicTree(), func(s *Server) { s.Limits.Fids = 10 })
	c := ts.raw("9P2000.L").attach()
	for i := 1; i < 10; i++ {
		c.rpc("Twalk", "Rwalk", "fid", "0", "newfid", string(rune('0'+i)))
	}
	c.rpc("Twalk", "Rlerror", "fid", "0", "newfid", "77")
	c.rpc("Txattrwalk", "Rlerror", "fid", "0", "newfid", "77", "name", "")
	c.rpc("Tattach", "Rlerror", "fid", "77", "afid", "NOFID")
	c.rpc("Tclunk", "Rclunk", "fid", "5")
	c.rpc("Twalk", "Rwalk", "fid", "0", "newfid", "77000")
	assert.Contains(t, ts.log.String(), "too many fids")
}

// TestUserFids: the connections of a user have their fids together, and what one
// of them had is free when it goes, or begins a new session.
func TestUserFids(t *testing.T) {
	ts := serve(t, basicTree(), func(s *Server) { s.Limits.UserFids = 5 })
	one, two := ts.raw("9P2000.L").attach(), ts.raw("9P2000.L").attach()
	for _, fid := range []string{"1", "2", "3"} {
		one.rpc("Twalk", "Rwalk", "fid", "0", "newfid", fid)
	}
	assert.True(t, wiretest.Equal(two.rpc("Twalk", "Rlerror", "fid", "0", "newfid", "1")["ecode"], "ENFILE"))
	one.rpc("Tclunk", "Rclunk", "fid", "3")
	two.rpc("Twalk", "Rwalk", "fid", "0", "newfid", "1")
	one.rpc("Tversion", "Rversion", "msize", "8192", "version", "9P2000.L")
	for _, fid := range []string{"2", "3", "4"} {
		two.rpc("Twalk", "Rwalk", "fid", "0", "newfid", fid)
	}
	one.rpc("Tattach", "Rlerror", "fid", "0", "afid", "NOFID")
	two.Close()
	eventually(t, "the other's fids are free", func() bool {
		one.send("Tattach", 1, "fid", "0", "afid", "NOFID")
		name, _, _ := one.recv()
		return name == "Rattach"
	})
}

// TestConnLimits closes one connection too many, at once.
func TestConnLimits(t *testing.T) {
	ts := serve(t, basicTree(), func(s *Server) { s.Limits.UserConns = 3 })
	var cs []*rawClient
	for range 3 {
		cs = append(cs, ts.raw("9P2000.L").attach())
	}
	c := &rawClient{t: t, Conn: ts.dial()}
	_, err := c.recvFrame()
	require.Error(t, err)
	eventually(t, "log", func() bool { return strings.Contains(ts.log.String(), errTooManyConns.Error()) })
	cs[1].Close()
	eventually(t, "room again", func() bool {
		c := &rawClient{t: t, Conn: ts.dial(), dialect: "9P2000.L"}
		if _, err := c.Write(wiretest.Encode("9P2000.L", "Tversion", 1, map[string]string{"msize": "8192", "version": "9P2000.L"})); err != nil {
			return false
		}
		_, err := c.recvFrame()
		return err == nil
	})
	cs[0].rpc("Tgetattr", "Rgetattr", "fid", "0")
}

// TestShutdown answers what is in flight, cancels what blocks, and closes
// every file before it returns.
func TestShutdown(t *testing.T) {
	fs := basicTree()
	st := fs.streamFile("s")
	ts := serve(t, fs)
	c := ts.raw("9P2000.L").attach()
	c.rpc("Twalk", "Rwalk", "fid", "0", "newfid", "1", "names", "s")
	c.rpc("Tlopen", "Rlopen", "fid", "1", "flags", "2")
	c.send("Tread", 50, "fid", "1", "count", "10")
	take(t, "read", st.waiting)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, ts.Shutdown(ctx))
	c.want("Rlerror", 50, "ecode", "EINTR")
	_, err := c.recvFrame()
	assert.ErrorIs(t, err, io.EOF)
	assert.Zero(t, fs.open.Load())
	assert.NoFileExists(t, strings.TrimPrefix(ts.addr, "unix!"))
	ln, err := dial.Listen(t.Context(), ts.addr)
	require.NoError(t, err)
	assert.ErrorIs(t, ts.Serve(t.Context(), ln), ErrShutdown)
}

// TestForcedShutdown cuts connections when the time is up, and says so.
func TestForcedShutdown(t *testing.T) {
	fs := basicTree()
	st := fs.streamFile("s")
	st.hold = make(chan struct{})
	ts := serve(t, fs)
	c := ts.raw("9P2000.L").attach()
	c.rpc("Twalk", "Rwalk", "fid", "0", "newfid", "1", "names", "s")
	c.rpc("Tlopen", "Rlopen", "fid", "1", "flags", "2")
	c.send("Tread", 50, "fid", "1", "count", "10")
	take(t, "read", st.waiting)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	assert.ErrorIs(t, ts.Shutdown(ctx), context.DeadlineExceeded)
	_, err := c.recvFrame()
	assert.Error(t, err)
	close(st.hold)
}

// TestServeContext hangs up when the context of Serve ends.
func TestServeContext(t *testing.T) {
	checkLeaks(t)
	fs := basicTree()
	srv := &Server{Attacher: fs}
	ln, err := dial.Listen(t.Context(), "tcp!127.0.0.1!0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ctx, ln) }()
	conn, err := dial.Dial(t.Context(), dial.String(ln.Addr()))
	require.NoError(t, err)
	defer conn.Close()
	c := &rawClient{t: t, Conn: conn, dialect: "9P2000.L"}
	c.rpc("Tversion", "Rversion", "msize", "8192", "version", "9P2000.L")
	c.attach()
	cancel()
	_, err = c.recvFrame()
	assert.Error(t, err)
	assert.ErrorIs(t, take(t, "Serve", done), context.Canceled)
	assert.Zero(t, fs.open.Load())
}

// TestBusyIsNotSlow: a client whose writes always end within a message is not
// one that leaves a message unfinished.
func TestBusyIsNotSlow(t *testing.T) {
	ts := serve(t, basicTree(), func(s *Server) { s.Limits.Frame = 600 * time.Millisecond })
	c := ts.raw("9P2000.L").attach()
	frame := wiretest.Encode("9P2000.L", "Tgetattr", 9, map[string]string{"fid": "0"})
	_, err := c.Write(frame[:5])
	require.NoError(t, err)
	for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); {
		_, err := c.Write(append(frame[5:len(frame):len(frame)], frame[:5]...))
		require.NoError(t, err)
		c.want("Rgetattr", 9)
	}
	_, err = c.Write(frame[5:])
	require.NoError(t, err)
	c.want("Rgetattr", 9)
}

// TestIdleMemory: a connection that was busy and is idle keeps no buffers. The
// client's half is counted along.
func TestIdleMemory(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector takes memory of its own")
	}
	fs := basicTree()
	fs.file("big", strings.Repeat("x", 60000))
	ts := serve(t, fs)
	used := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	before := used()
	const n = 200
	for range n {
		c := ts.raw("9P2000.L").attach()
		c.rpc("Twalk", "Rwalk", "fid", "0", "newfid", "1", "names", "big")
		c.rpc("Tlopen", "Rlopen", "fid", "1", "flags", "2")
		c.rpc("Tread", "Rread", "fid", "1", "count", "60000")
		c.rpc("Twrite", "Rwrite", "fid", "1", "data", strings.Repeat("y", 60000))
	}
	each := (used() - before) / n
	t.Logf("%d bytes a connection, both ends", each)
	require.Less(t, each, uint64(64<<10))
}

// TestRequestLimit refuses one blocked request too many, by number and by what
// they hold, and goes on as soon as there is room.
func TestRequestLimit(t *testing.T) {
	fs := basicTree()
	st, another := fs.streamFile("s"), fs.streamFile("r")
	ts := serve(t, fs, func(s *Server) { s.Limits.Requests, s.Limits.Held = 8, 120<<10 })
	other := ts.raw("9P2000.L").attach()
	c := ts.raw("9P2000.L").attach()
	for fid := range 9 {
		n := string(rune('0' + fid))
		c.rpc("Twalk", "Rwalk", "fid", "0", "newfid", "1"+n, "names", "s")
		c.rpc("Tlopen", "Rlopen", "fid", "1"+n, "flags", "2")
	}
	for fid := range 8 {
		c.send("Tread", uint16(100+fid), "fid", "1"+string(rune('0'+fid)), "count", "1000")
		take(t, "read", st.waiting)
	}
	c.rpc("Tread", "Rlerror", "fid", "18", "count", "10")
	c.rpc("Tgetattr", "Rgetattr", "fid", "0")
	other.rpc("Tgetattr", "Rgetattr", "fid", "0")
	c.send("Tflush", 50, "oldtag", "100")
	c.want("Rlerror", 100, "ecode", "EINTR")
	c.want("Rflush", 50)

	// One place is left, but no room for so many bytes.
	c.send("Twrite", 60, "fid", "10", "data", strings.Repeat("x", 60000))
	take(t, "write", st.waiting)
	c.send("Tflush", 51, "oldtag", "101")
	c.want("Rlerror", 101, "ecode", "EINTR")
	c.want("Rflush", 51)
	c.rpc("Twrite", "Rlerror", "fid", "11", "data", strings.Repeat("x", 60000))
	// A read gets less.
	c.rpc("Twalk", "Rwalk", "fid", "0", "newfid", "30", "names", "r")
	c.rpc("Tlopen", "Rlopen", "fid", "30", "flags", "2")
	c.send("Tread", 61, "fid", "30", "count", "60000")
	take(t, "read", another.waiting)
	another.in <- strings.Repeat("y", 60000)
	assert.Less(t, len(c.want("Rread", 61)["data"]), 50000)
	assert.Contains(t, ts.log.String(), "too many requests wait")
	other.rpc("Tgetattr", "Rgetattr", "fid", "0")
}

// TestManyBlocked has as many requests blocked as may be, each of which asks for
// more than its share: none is refused, and every byte arrives.
func TestManyBlocked(t *testing.T) {
	const fids = 200
	fs := basicTree()
	var streams []*stream
	for i := range fids {
		st := fs.streamFile("s" + strconv.Itoa(i))
		st.parts = true
		streams = append(streams, st)
	}
	ts := serve(t, fs, func(s *Server) { s.Limits.Requests, s.Limits.Held = 2*fids, 2*fids*leastShare })
	c := ts.raw("9P2000.L").attach()
	text := func(i int) string { return strings.Repeat(strconv.Itoa(i)+" ", 5000) }
	read, written := make([]string, fids), make([]string, fids)
	sendRead := func(i int) { c.send("Tread", uint16(1000+i), "fid", strconv.Itoa(1+i), "count", "1000000") }
	sendWrite := func(i int) {
		c.send("Twrite", uint16(2000+i), "fid", strconv.Itoa(1+i), "data", text(i)[len(written[i]):])
	}
	for i := range fids {
		c.rpc("Twalk", "Rwalk", "fid", "0", "newfid", strconv.Itoa(1+i), "names", "s"+strconv.Itoa(i))
		c.rpc("Tlopen", "Rlopen", "fid", strconv.Itoa(1+i), "flags", "2")
		sendRead(i)
		sendWrite(i)
	}
	for _, st := range streams {
		take(t, "read or write", st.waiting)
		take(t, "read or write", st.waiting)
	}
	var wg sync.WaitGroup
	for i, st := range streams {
		wg.Go(func() { st.in <- text(i) })
		wg.Go(func() {
			for got := 0; got < len(text(i)); {
				p := <-st.out
				assert.True(t, text(i)[got:got+len(p)] == p, "stream %d at %d", i, got)
				got += len(p)
			}
		})
	}
	for left := 2 * fids; left > 0; {
		name, tag, vals := c.recv()
		i := int(tag) % 1000
		switch name {
		case "Rread":
			data, err := strconv.Unquote(vals["data"])
			require.NoError(t, err)
			if read[i] += data; len(read[i]) < len(text(i)) {
				sendRead(i)
				continue
			}
		case "Rwrite":
			n, err := strconv.Atoi(vals["count"])
			require.NoError(t, err)
			if written[i] = text(i)[:len(written[i])+n]; len(written[i]) < len(text(i)) {
				sendWrite(i)
				continue
			}
		default:
			require.Fail(t, "refused", "%s %d: %v", name, tag, vals)
		}
		left--
	}
	wg.Wait()
	for i := range fids {
		assert.True(t, text(i) == read[i], "stream %d", i)
	}
}

// TestFlushLimit: flushing one request again and again piles nothing up.
func TestFlushLimit(t *testing.T) {
	fs := basicTree()
	st := fs.streamFile("s")
	st.hold = make(chan struct{})
	ts := serve(t, fs)
	c := ts.raw("9P2000.L").attach()
	c.rpc("Twalk", "Rwalk", "fid", "0", "newfid", "1", "names", "s")
	c.rpc("Tlopen", "Rlopen", "fid", "1", "flags", "2")
	c.send("Tread", 5000, "fid", "1", "count", "10")
	take(t, "read", st.waiting)
	for tag := range uint16(maxFlushes) {
		c.send("Tflush", tag, "oldtag", "5000")
	}
	c.send("Tflush", 4000, "oldtag", "5000")
	c.want("Rflush", 4000) // one more than is kept is not kept
	close(st.hold)
	c.want("Rlerror", 5000, "ecode", "EINTR")
	for tag := range uint16(maxFlushes) {
		c.want("Rflush", tag)
	}
}

// TestMessageSize gives a client the limit and no more, and ends one that sends
// more than it was given.
func TestMessageSize(t *testing.T) {
	ts := serve(t, basicTree(), func(s *Server) { s.Limits.Msize = 8192 })
	c := &rawClient{t: t, Conn: ts.dial(), dialect: "9P2000.L"}
	c.send("Tversion", 0xffff, "msize", "1048576", "version", "9P2000.L")
	c.want("Rversion", 0xffff, "msize", "8192")
	c.attach()
	c.rpc("Tversion", "Rversion", "msize", "4096", "version", "9P2000.L")
	c.attach()
	_, err := c.Write([]byte{0x01, 0x10, 0, 0, 24}) // 4097 bytes to come
	require.NoError(t, err)
	_, err = c.recvFrame()
	assert.ErrorIs(t, err, io.EOF)
	eventually(t, "log", func() bool { return strings.Contains(ts.log.String(), errFrameSize.Error()) })
}

// TestNeverClunks opens until it is refused. Nobody else notices, and all is
// closed when the client goes.
func TestNeverClunks(t *testing.T) {
	fs := basicTree()
	ts := serve(t, fs, func(s *Server) { s.Limits.Fids = 500 })
	other := ts.raw("9P2000.L").attach()
	c := ts.raw("9P2000.L").attach()
	before := fs.open.Load()
	n := 0
	for fid := 1; ; fid++ {
		num := strconv.Itoa(fid)
		c.send("Twalk", 1, "fid", "0", "newfid", num, "names", "a")
		if name, _, vals := c.recv(); name == "Rlerror" {
			assert.True(t, wiretest.Equal(vals["ecode"], "ENFILE"), "%v", vals)
			break
		}
		c.rpc("Tlopen", "Rlopen", "fid", num)
		n++
	}
	assert.Equal(t, 499, n)
	other.rpc("Twalk", "Rwalk", "fid", "0", "newfid", "1", "names", "a")
	other.rpc("Tlopen", "Rlopen", "fid", "1")
	other.rpc("Tclunk", "Rclunk", "fid", "1")
	c.Close()
	eventually(t, "all closed", func() bool { return fs.open.Load() == before-1 }) // its root too
}

// TestUserHeld bounds what all connections of a user hold together, of blocked
// requests and of extended attributes, and gives it back.
func TestUserHeld(t *testing.T) {
	fs := basicTree()
	st := fs.streamFile("s")
	ts := serve(t, fs, func(s *Server) { s.Limits.Held, s.Limits.UserHeld = 100<<10, 150<<10+3*requestCost })
	open := func() *rawClient {
		c := ts.raw("9P2000.L").attach()
		for _, fid := range []string{"1", "2"} {
			c.rpc("Twalk", "Rwalk", "fid", "0", "newfid", fid, "names", "s")
			c.rpc("Tlopen", "Rlopen", "fid", fid, "flags", "2")
		}
		return c
	}
	one, two := open(), open()
	ts.mu.Lock()
	var share *userShare
	for _, u := range ts.users {
		share = u
	}
	require.Len(t, ts.users, 1)
	ts.mu.Unlock()

	for _, c := range []*rawClient{one, two} {
		c.send("Twrite", 1, "fid", "1", "data", strings.Repeat("x", 60000))
		take(t, "write", st.waiting)
	}
	one.rpc("Twrite", "Rlerror", "fid", "2", "data", strings.Repeat("x", 35000))
	one.rpc("Twalk", "Rwalk", "fid", "0", "newfid", "3", "names", "a")
	assert.True(t, wiretest.Equal(one.rpc("Txattrcreate", "Rlerror", "fid", "3", "name", "user.x", "size", "35000")["ecode"], "ENOBUFS"))
	one.rpc("Txattrcreate", "Rxattrcreate", "fid", "3", "name", "user.x", "size", "20000")
	assert.EqualValues(t, 2*(bufSizes[2]+requestCost)+20000, share.held.Load())
	two.Close()
	eventually(t, "what the other connection held is free", func() bool { return share.held.Load() < 100000 })
	one.send("Twrite", 2, "fid", "2", "data", strings.Repeat("x", 15000))
	take(t, "write", st.waiting)
	one.rpc("Tremove", "Rlerror", "fid", "3")
	// A directory that is read in part is held in part.
	one.rpc("Twalk", "Rwalk", "fid", "0", "newfid", "4", "names", "dir")
	one.rpc("Tlopen", "Rlopen", "fid", "4")
	one.rpc("Treaddir", "Rreaddir", "fid", "4", "count", "40", "offset", "0")
	assert.EqualValues(t, bufSizes[2]+bufSizes[1]+2*requestCost+2*direntCost, share.held.Load())
	one.rpc("Treaddir", "Rreaddir", "fid", "4", "count", "40", "offset", "1")
	assert.EqualValues(t, bufSizes[2]+bufSizes[1]+2*requestCost, share.held.Load())
	one.rpc("Treaddir", "Rreaddir", "fid", "4", "count", "40", "offset", "0")
	one.rpc("Tclunk", "Rclunk", "fid", "4")
	assert.EqualValues(t, bufSizes[2]+bufSizes[1]+2*requestCost, share.held.Load())
	one.Close()
	eventually(t, "nothing is held", func() bool { return share.held.Load() == 0 })
}

// TestReplyPile: what one read of the connection brings can ask for much more
// than may wait for the client, while a reply that it does not take is being
// written by another goroutine.
func TestReplyPile(t *testing.T) {
	fs := basicTree()
	st := fs.streamFile("s")
	fs.file("big", strings.Repeat("x", 60000))
	srv := &Server{Attacher: fs}
	near, far := net.Pipe() // which has no buffer of its own
	done := make(chan error, 1)
	go func() { done <- srv.ServeConn(context.Background(), far) }()
	defer func() {
		near.Close()
		take(t, "end of the connection", done)
	}()
	c := &rawClient{t: t, Conn: near, dialect: "9P2000.L"}
	c.send("Tversion", 0xffff, "msize", "70000", "version", "9P2000.L")
	c.want("Rversion", 0xffff)
	c.attach()
	var out *output
	srv.mu.Lock()
	for conn := range srv.conns {
		out = &conn.out
	}
	srv.mu.Unlock()
	for fid, name := range map[string]string{"1": "s", "2": "big"} {
		c.rpc("Twalk", "Rwalk", "fid", "0", "newfid", fid, "names", name)
		c.rpc("Tlopen", "Rlopen", "fid", fid)
	}
	c.send("Tread", 1, "fid", "1", "count", "10")
	take(t, "read", st.waiting)
	give(t, "record", st.in, "record")
	eventually(t, "the record is being written", func() bool {
		out.mu.Lock()
		defer out.mu.Unlock()
		return out.writing
	})
	var batch []byte
	const asked = 150 // they fit the buffer that the server reads into
	for range asked {
		batch = append(batch, wiretest.Encode("9P2000.L", "Tread", 2, map[string]string{"fid": "2", "count": "60000"})...)
	}
	_, err := c.Write(batch)
	require.NoError(t, err)
	piled := func() int {
		out.mu.Lock()
		defer out.mu.Unlock()
		return out.waiting
	}
	eventually(t, "replies wait", func() bool { return piled() > maxPending })
	time.Sleep(50 * time.Millisecond) // for what should not come
	assert.Less(t, piled(), maxPending+2*bufSizes[2])
	c.want("Rread", 1)
	for range asked {
		c.want("Rread", 2, "count", "60000")
	}
}
