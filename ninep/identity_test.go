package ninep

import (
	"context"
	"os"
	"runtime"
	"testing"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/ninep/dial"
)

// userFS notes who attaches. It declares the interfaces as a package would
// that does not know this one.
type userFS struct {
	*memFS
	seen chan attached
	hold chan struct{} // if not nil, AttachUser blocks
}

type attached struct {
	caller interface {
		Network() string
		Listener() string
		Remote() string
		FixedUser() (name string, ok bool)
		PeerCred() (uid, gid uint32, groups []uint32, pid int, ok bool)
	}
	uname  string
	nuname uint32
	aname  string
}

func (u *userFS) AttachUser(ctx context.Context, caller interface {
	Network() string
	Listener() string
	Remote() string
	FixedUser() (name string, ok bool)
	PeerCred() (uid, gid uint32, groups []uint32, pid int, ok bool)
}, uname string, nuname uint32, aname string) (p9.File, error) {
	u.seen <- attached{caller, uname, nuname, aname}
	if u.hold != nil {
		select {
		case <-u.hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if uname == "nobody" {
		return nil, linux.EACCES
	}
	return u.Attach()
}

var _ UserAttacher = (*userFS)(nil)

func TestAttachUser(t *testing.T) {
	fs := &userFS{memFS: basicTree(), seen: make(chan attached, 10)}
	ts := serve(t, fs)
	c := ts.raw("9P2000.L")
	c.rpc("Tattach", "Rattach", "fid", "0", "afid", "NOFID", "uname", "glenda", "aname", "/x/y", "uid", "1000")
	a := take(t, "attach", fs.seen)
	assert.Equal(t, "glenda", a.uname)
	assert.EqualValues(t, 1000, a.nuname)
	assert.Equal(t, "/x/y", a.aname)
	assert.Equal(t, "unix", a.caller.Network())
	assert.Equal(t, ts.addr, a.caller.Listener())
	_, fixed := a.caller.FixedUser()
	assert.False(t, fixed)
	uid, gid, groups, pid, ok := a.caller.PeerCred()
	if runtime.GOOS == "linux" {
		require.True(t, ok)
		assert.EqualValues(t, os.Getuid(), uid)
		assert.EqualValues(t, os.Getgid(), gid)
		assert.Equal(t, os.Getpid(), pid)
		want, err := os.Getgroups()
		require.NoError(t, err)
		for _, g := range want {
			assert.Contains(t, groups, uint32(g))
		}
		assert.Contains(t, groups, gid)
	}
	c.rpc("Tattach", "Rlerror", "fid", "1", "afid", "NOFID", "uname", "nobody", "uid", "NONUNAME")
	a = take(t, "attach", fs.seen)
	assert.Equal(t, NoUser, a.nuname)
	c.rpc("Tclunk", "Rlerror", "fid", "1")
	c.rpc("Tattach", "Rattach", "fid", "1", "afid", "NOFID", "uname", "somebody")
	c.rpc("Twalk", "Rwalk", "fid", "1", "newfid", "2", "names", "a")
}

// TestAttachBlocks: looking a user up may take its time. The fid is nobody's
// until then, and the attach can be flushed.
func TestAttachBlocks(t *testing.T) {
	fs := &userFS{memFS: basicTree(), seen: make(chan attached, 10), hold: make(chan struct{})}
	ts := serve(t, fs)
	c := ts.raw("9P2000.L")
	c.send("Tattach", 1, "fid", "0", "afid", "NOFID", "uname", "slow")
	take(t, "attach", fs.seen)
	c.rpc("Tgetattr", "Rlerror", "fid", "0", "mask", "1")
	c.rpc("Tattach", "Rlerror", "fid", "0", "afid", "NOFID", "uname", "slow")
	c.send("Tflush", 2, "oldtag", "1")
	c.want("Rlerror", 1, "ecode", "EINTR")
	c.want("Rflush", 2)
	c.send("Tattach", 3, "fid", "0", "afid", "NOFID", "uname", "slow")
	take(t, "attach", fs.seen)
	close(fs.hold)
	c.want("Rattach", 3)
	c.rpc("Tgetattr", "Rgetattr", "fid", "0", "mask", "1")
}

func TestFixedUser(t *testing.T) {
	checkLeaks(t)
	fs := &userFS{memFS: basicTree(), seen: make(chan attached, 10)}
	srv := &Server{Attacher: fs}
	ln, err := dial.Listen(t.Context(), "tcp!127.0.0.1!0")
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(context.Background(), WithUser(ln, "glenda")) }()
	conn, err := dial.Dial(t.Context(), dial.String(ln.Addr()))
	require.NoError(t, err)
	defer conn.Close()
	c := &rawClient{t: t, Conn: conn, dialect: "9P2000.L"}
	c.rpc("Tversion", "Rversion", "msize", "8192", "version", "9P2000.L")
	c.rpc("Tattach", "Rattach", "fid", "0", "afid", "NOFID", "uname", "root", "uid", "0")
	a := take(t, "attach", fs.seen)
	name, ok := a.caller.FixedUser()
	assert.True(t, ok)
	assert.Equal(t, "glenda", name)
	assert.Equal(t, "tcp", a.caller.Network())
	assert.Equal(t, dial.String(conn.LocalAddr()), a.caller.Remote())
	_, _, _, _, ok = a.caller.PeerCred()
	assert.False(t, ok)
	require.NoError(t, srv.Shutdown(t.Context()))
	require.NoError(t, <-done)
}
