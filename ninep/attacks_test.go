package ninep

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hugelgupf/p9/p9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/ninep/dial"
	"vmfs/ninep/wire"
	"vmfs/ninep/wire/wiretest"
)

// reserving is a tree for whose clients on the Unix socket there is a reserve, while so.
type reserving struct {
	*memFS
	not atomic.Bool
}

func (r *reserving) Privileged(c Caller) bool {
	_, _, _, _, known := c.PeerCred()
	return known && !r.not.Load()
}

// also serves on another listener besides, and gives its address.
func (ts *testServer) also(ln net.Listener) string {
	done := make(chan error, 1)
	go func() { done <- ts.Serve(context.Background(), ln) }()
	ts.t.Cleanup(func() { // when its clients are gone
		ln.Close()
		assert.ErrorIs(ts.t, take(ts.t, "the end of Serve", done), net.ErrClosed)
	})
	return dial.String(ln.Addr())
}

// hello says who gets in: a client whose Tversion is answered. It is closed with the test.
func (ts *testServer) hello(conn net.Conn) (*rawClient, bool) {
	ts.t.Cleanup(func() { conn.Close() })
	c := &rawClient{Conn: conn, t: ts.t, dialect: "9P2000.L"}
	_, err := c.Write(wiretest.Encode("9P2000.L", "Tversion", 0xffff, map[string]string{"msize": "65536", "version": "9P2000.L"}))
	if err == nil {
		_, err = c.recvFrame()
	}
	return c, err == nil
}

// from connects from one of the addresses of loopback.
func from(t testing.TB, addr string, last int) net.Conn {
	a, err := dial.Parse(addr)
	require.NoError(t, err)
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(last))}}
	conn, err := d.Dial("tcp", net.JoinHostPort("127.0.0.1", a.Port))
	if errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Skip("loopback has one address here")
	}
	require.NoError(t, err)
	return conn
}

// Many connections by four addresses of loopback are one host's, are no more than one
// listener's, and keep nobody out who runs the server.
func TestManyConnections(t *testing.T) {
	for _, c := range []struct {
		name   string
		limits Limits
		in     int
	}{
		{"one user", Limits{Conns: 64, UserConns: 20}, 20},
		{"one listener", Limits{Conns: 64, ListenerConns: 30, UserConns: 100}, 30},
		{"the server", Limits{Conns: 64, ListenerConns: 100, UserConns: 100}, 60},
		{"descriptors", Limits{Conns: 64, UserConns: 100, Descriptors: 64, UserDescriptors: 100}, 28},
		{"a user's descriptors", Limits{Conns: 64, UserConns: 100, Descriptors: 1000, UserDescriptors: 41}, 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			ts := serve(t, &reserving{memFS: basicTree()}, func(s *Server) { s.Limits = c.limits })
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			addr := ts.also(ln)
			in := 0
			for i := range 100 {
				if _, ok := ts.hello(from(t, addr, 1+i%4)); ok {
					in++
				}
			}
			assert.Equal(t, c.in, in)
			root := ts.raw("9P2000.L").attach()
			root.rpc("Twalk", "Rwalk", "fid", "0", "newfid", "1", "names", "a")
			root.rpc("Tlopen", "Rlopen", "fid", "1")
			root.rpc("Tread", "Rread", "fid", "1", "count", "100")
		})
	}
}

// Who does not run the server gets none of the reserve on the same socket either.
func TestReserve(t *testing.T) {
	fs := &reserving{memFS: basicTree()}
	fs.not.Store(true)
	ts := serve(t, fs, func(s *Server) { s.Limits.Conns, s.Limits.ListenerConns = 32, 32 })
	for range 30 {
		_, ok := ts.hello(ts.dial())
		require.True(t, ok)
	}
	_, ok := ts.hello(ts.dial())
	assert.False(t, ok)
	fs.not.Store(false)
	for range 2 {
		_, ok = ts.hello(ts.dial())
		assert.True(t, ok)
	}
	_, ok = ts.hello(ts.dial())
	assert.False(t, ok, "there is an end to the reserve, too")
}

// hosts is a listener whose clients come from the hosts that the test names.
type hosts struct {
	net.Listener
	next chan string
}

func (h *hosts) Accept() (net.Conn, error) {
	conn, err := h.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &hostConn{conn, &net.TCPAddr{IP: net.ParseIP(<-h.next), Port: 1}}, nil
}

type hostConn struct {
	net.Conn
	remote net.Addr
}

func (c *hostConn) RemoteAddr() net.Addr { return c.remote }

// hosts serves such a listener, and gives what connects from a host.
func (ts *testServer) hosts() (from func(host string) (*rawClient, bool)) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(ts.t, err)
	h := &hosts{ln, make(chan string, 1)}
	addr := ts.also(h)
	return func(host string) (*rawClient, bool) {
		h.next <- host
		conn, err := dial.Dial(ts.t.Context(), addr)
		require.NoError(ts.t, err)
		return ts.hello(conn)
	}
}

// A connection that holds nothing and says nothing ends when others come; one that holds
// a fid does not.
func TestIdleEnds(t *testing.T) {
	ts := serve(t, basicTree(), func(s *Server) { s.Limits.Idle = 20 * time.Millisecond })
	idle, ok := ts.hello(ts.dial())
	require.True(t, ok)
	mounted := ts.raw("9P2000.L").attach()
	eventually(t, "the end", func() bool {
		ts.dial().Close()
		require.NoError(t, idle.SetReadDeadline(time.Now().Add(time.Millisecond)))
		_, err := idle.Read(make([]byte, 1))
		return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)
	})
	mounted.rpc("Tgetattr", "Rgetattr", "fid", "0")
	assert.Contains(t, ts.log.String(), errIdle.Error())
}

// Where a listener is full, who has most connections gives way to who has fewer, by one
// that is idle; and not to himself.
func TestMakesRoom(t *testing.T) {
	fs := basicTree()
	fs.streamFile("s")
	ts := serve(t, fs, func(s *Server) { s.Limits.ListenerConns, s.Limits.Idle = 6, 10*time.Millisecond })
	from := ts.hosts()
	var many []*rawClient
	for range 5 {
		c, ok := from("10.0.0.1")
		require.True(t, ok)
		many = append(many, c.attach())
	}
	// One of them is not idle: it waits for something.
	many[0].rpc("Twalk", "Rwalk", "fid", "0", "newfid", "1", "names", "s")
	many[0].rpc("Tlopen", "Rlopen", "fid", "1")
	many[0].send("Tread", 9, "fid", "1", "count", "10")
	few, ok := from("10.0.0.2")
	require.True(t, ok)
	few.attach()
	gets := func(host string) *rawClient {
		var c *rawClient
		eventually(t, "room for "+host, func() (ok bool) { c, ok = from(host); return ok })
		return c.attach()
	}
	other := gets("10.0.0.3")
	others := gets("2001:db8::1")
	for range 3 {
		time.Sleep(15 * time.Millisecond) // longer than Idle and seekEvery: there could be room
		_, ok = from("10.0.0.1")
		assert.False(t, ok)
	}
	for _, c := range []*rawClient{few, other, others} {
		c.rpc("Tgetattr", "Rgetattr", "fid", "0")
	}
	many[0].rpc("Tgetattr", "Rgetattr", "fid", "0")
}

func TestCountedFor(t *testing.T) {
	for remote, want := range map[string]string{
		"tcp!127.0.0.1!99":         "tcp!loopback",
		"tcp!127.200.3.4!99":       "tcp!loopback",
		"tcp!::1!99":               "tcp!loopback",
		"tcp!::ffff:127.0.0.1!99":  "tcp!loopback",
		"tcp!10.1.2.3!99":          "tcp!10.1.2.3",
		"tcp!::ffff:10.1.2.3!99":   "tcp!10.1.2.3",
		"tcp!2001:db8:1:2:3::4!99": "tcp!2001:db8:1:2::/64",
		"tcp!2001:db8:1:2:9::9!1":  "tcp!2001:db8:1:2::/64",
		"vsock!7!99":               "vsock!7",
	} {
		assert.Equal(t, want, (&caller{remote: remote}).countedFor(), remote)
	}
}

// theShare is what the only user has.
func (ts *testServer) theShare() (share *userShare) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	require.Len(ts.t, ts.users, 1)
	for _, share = range ts.users {
	}
	return share
}

// Messages that are begun and left unfinished take no more than one user may hold: those
// for which there is no room are refused once they are there.
func TestUnfinishedMessages(t *testing.T) {
	fs := basicTree()
	st := fs.streamFile("s")
	ts := serve(t, fs, func(s *Server) { s.Limits.UserHeld = 4 << 20 })
	const size = 1 << 20
	data := strings.Repeat("x", size-wire.DataHeader-8-4-4)
	frame := wiretest.Encode("9P2000.L", "Twrite", 5, map[string]string{"fid": "1", "offset": "0", "data": data})
	const conns, begun = 20, 100 << 10
	var cs []*rawClient
	for range conns {
		c := ts.raw("9P2000.L")
		c.rpc("Tversion", "Rversion", "msize", strconv.Itoa(size), "version", "9P2000.L")
		c.attach()
		c.rpc("Twalk", "Rwalk", "fid", "0", "newfid", "1", "names", "s")
		c.rpc("Tlopen", "Rlopen", "fid", "1", "flags", "2")
		_, err := c.Write(frame[:begun])
		require.NoError(t, err)
		cs = append(cs, c)
	}
	share := ts.theShare()
	refused := 0
	for _, c := range cs {
		assert.LessOrEqual(t, share.held.Load(), int64(4<<20))
		go func() {
			for {
				select {
				case <-st.out:
				case <-t.Context().Done():
					return
				}
			}
		}()
		_, err := c.Write(frame[begun:])
		require.NoError(t, err)
		name, tag, vals := c.recv()
		require.EqualValues(t, 5, tag)
		if name == "Rlerror" {
			require.True(t, wiretest.Equal(vals["ecode"], "ENOBUFS"))
			refused++
		}
		c.rpc("Tgetattr", "Rgetattr", "fid", "0") // which is a message of its own
	}
	assert.Greater(t, refused, conns/2)
	assert.Less(t, refused, conns, "what there is room for is taken")
	eventually(t, "nothing is held", func() bool { return share.held.Load() == 0 })
}

// Replies that clients do not take are no more than one user may hold, and are there in
// the end.
func TestUnreadIsHeld(t *testing.T) {
	fs := basicTree()
	fs.file("big", strings.Repeat("x", 60000))
	ts := serve(t, fs, func(s *Server) { s.Limits.UserHeld = 1 << 20 })
	const conns, asked = 10, 40
	var cs []*rawClient
	for range conns {
		c := ts.raw("9P2000.L").attach()
		c.rpc("Twalk", "Rwalk", "fid", "0", "newfid", "1", "names", "big")
		c.rpc("Tlopen", "Rlopen", "fid", "1")
		for i := range asked {
			c.send("Tread", uint16(10+i), "fid", "1", "count", "60000")
		}
		cs = append(cs, c)
	}
	share := ts.theShare()
	for _, c := range cs {
		assert.LessOrEqual(t, share.held.Load(), int64(1<<20+conns*2*smallHeld))
		for i := range asked {
			c.want("Rread", uint16(10+i))
		}
	}
	eventually(t, "nothing is held", func() bool { return share.held.Load() == 0 })
}

// What open files hold is their user's, is refused beyond half of what he may hold, and is
// given back when the file is closed, cannot be opened, or loses its client.
func TestOpenCost(t *testing.T) {
	fs := basicTree()
	fs.streamFile("s").bytes = 10 << 10
	fs.streamFile("d").files = 3
	failing := fs.streamFile("f")
	failing.bytes, failing.files, failing.openErr = 10<<10, 3, make(chan error, 1)
	failing.openErr <- io.ErrNoProgress
	ts := serve(t, fs, func(s *Server) { s.Limits.UserHeld, s.Limits.UserDescriptors = 100<<10, 2*connFiles+10 })
	one, two := ts.raw("9P2000.L").attach(), ts.raw("9P2000.L").attach()
	share := ts.theShare()
	open := func(c *rawClient, fid int, name, reply string) {
		c.rpc("Twalk", "Rwalk", "fid", "0", "newfid", strconv.Itoa(fid), "names", name)
		got := c.rpc("Tlopen", reply, "fid", strconv.Itoa(fid))
		if reply == "Rlerror" && name != "f" {
			assert.True(t, wiretest.Equal(got["ecode"], "ENFILE"), "%v", got)
		}
	}
	open(one, 9, "f", "Rlerror")
	for i := range 4 {
		open(one, 10+i, "s", "Rlopen")
	}
	open(two, 10, "s", "Rlopen")
	open(two, 11, "s", "Rlerror")
	two.rpc("Tclunk", "Rclunk", "fid", "10")
	open(one, 14, "s", "Rlopen")
	for i := range 3 {
		open(two, 20+i, "d", "Rlopen")
	}
	open(one, 23, "d", "Rlerror")
	assert.EqualValues(t, 5*10<<10, share.held.Load())
	require.NoError(t, two.Close())
	eventually(t, "the descriptors of who is gone are free", func() bool { return share.files.Load() == connFiles })
	open(one, 24, "d", "Rlopen")
	one.rpc("Tversion", "Rversion", "msize", "8192", "version", "9P2000.L")
	assert.Zero(t, share.held.Load())
	assert.Zero(t, share.opens.Load())
	assert.EqualValues(t, connFiles, share.files.Load())
	assert.Equal(t, share.files.Load(), ts.usage.files.Load())
	assert.Zero(t, ts.usage.held.Load())
	one.attach()
	open(one, 1, "d", "Rlopen")
}

// Blocked reads cost more than the room for their data: many small ones are refused, too.
func TestManyBlockedReads(t *testing.T) {
	fs := basicTree()
	fs.streamFile("s")
	ts := serve(t, fs, func(s *Server) { s.Limits.UserHeld = 240 << 10 })
	var blocked, refused int
	for range 3 {
		c := ts.raw("9P2000.L").attach()
		for i := range 10 {
			fid := strconv.Itoa(1 + i)
			c.rpc("Twalk", "Rwalk", "fid", "0", "newfid", fid, "names", "s")
			c.rpc("Tlopen", "Rlopen", "fid", fid)
		}
		for i := range 10 {
			c.send("Tread", uint16(10+i), "fid", strconv.Itoa(1+i), "count", "1")
		}
		c.send("Tgetattr", 99, "fid", "0")
		for answered := 0; ; answered++ {
			name, tag, _ := c.recv()
			if tag == 99 {
				require.Equal(t, "Rgetattr", name)
				blocked += 10 - answered
				refused += answered
				break
			}
			require.Equal(t, "Rlerror", name)
		}
	}
	assert.Equal(t, 20, blocked, "12 KiB each")
	assert.Equal(t, 10, refused)
}

// keeping is a file that keeps all that it is, and has been told to forget it so often.
type keeping struct {
	*memFile
	forgot *atomic.Int64
}

func (k *keeping) Kept() int { return len(k.n.data) }
func (k *keeping) Forget()   { k.forgot.Add(1) }

func (k *keeping) Walk(names []string) ([]p9.QID, p9.File, error) {
	qids, f, err := k.memFile.Walk(names)
	if m, ok := f.(*memFile); ok {
		f = &keeping{m, k.forgot}
	}
	return qids, f, err
}

type keepingTree struct {
	*memFS
	forgot atomic.Int64
}

func (t *keepingTree) Attach() (p9.File, error) {
	f, err := t.memFS.Attach()
	return &keeping{f.(*memFile), &t.forgot}, err
}

// What files keep of a read is their user's until they are closed.
func TestKept(t *testing.T) {
	fs := &keepingTree{memFS: basicTree()}
	fs.file("big", strings.Repeat("x", 10<<10))
	ts := serve(t, fs, func(s *Server) { s.Limits.UserHeld = 35 << 10 })
	c := ts.raw("9P2000.L").attach()
	for i := range 4 {
		fid, reply := strconv.Itoa(1+i), "Rread"
		if i == 3 {
			reply = "Rlerror"
		}
		c.rpc("Twalk", "Rwalk", "fid", "0", "newfid", fid, "names", "big")
		c.rpc("Tlopen", "Rlopen", "fid", fid)
		c.rpc("Tread", reply, "fid", fid, "count", "1")
	}
	assert.EqualValues(t, 1, fs.forgot.Load())
	share := ts.theShare()
	assert.EqualValues(t, 30<<10, share.held.Load())
	c.rpc("Tclunk", "Rclunk", "fid", "1")
	c.rpc("Tread", "Rread", "fid", "4", "count", "1")
	c.rpc("Tversion", "Rversion", "msize", "8192", "version", "9P2000.L")
	assert.Zero(t, share.held.Load())
}
