package ninep

import (
	"io"
	"testing"

	"9fans.net/go/plan9"
	"9fans.net/go/plan9/client"
	go9p "github.com/knusbaum/go9p/client"
	"github.com/knusbaum/go9p/proto"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The same story for independent 9P2000 clients: list, read, write, be
// refused, block and be woken, make, change and remove.

func Test9fansClient(t *testing.T) {
	fs := basicTree()
	st := fs.streamFile("s")
	ts := serve(t, fs)
	conn, err := client.NewConn(ts.dial())
	require.NoError(t, err)
	_, err = conn.Auth("glenda", "")
	assert.ErrorContains(t, err, "authentication not required")
	root, err := conn.Attach(nil, "glenda", "")
	require.NoError(t, err)

	d, err := root.Open("/", plan9.OREAD)
	require.NoError(t, err)
	dirs, err := d.Dirreadall()
	require.NoError(t, err)
	var names []string
	for _, dir := range dirs {
		names = append(names, dir.Name)
	}
	assert.Equal(t, []string{"a", "b", "boom", "dir", "empty", "link", "s", "slow"}, names)
	require.NoError(t, d.Close())

	f, err := root.Open("dir/sub/deep", plan9.OREAD)
	require.NoError(t, err)
	b, err := io.ReadAll(f)
	require.NoError(t, err)
	assert.Equal(t, "down here\n", string(b))
	require.NoError(t, f.Close())

	_, err = root.Open("nothing", plan9.OREAD)
	assert.ErrorContains(t, err, "file does not exist")
	_, err = root.Open("dir", plan9.OWRITE)
	assert.ErrorContains(t, err, "Is a directory")

	f, err = root.Create("empty/new", plan9.ORDWR, 0o600)
	require.NoError(t, err)
	_, err = f.Write([]byte("hello"))
	require.NoError(t, err)
	dir, err := f.Stat()
	require.NoError(t, err)
	assert.EqualValues(t, 5, dir.Length)
	assert.Equal(t, plan9.Perm(0o600), dir.Mode)
	var change plan9.Dir
	change.Null()
	change.Name, change.Mode = "newer", 0o640
	require.NoError(t, f.Wstat(&change))
	require.NoError(t, f.Close())
	dir, err = root.Stat("empty/newer")
	require.NoError(t, err)
	assert.Equal(t, plan9.Perm(0o640), dir.Mode)
	require.NoError(t, root.Remove("empty/newer"))
	_, err = root.Create("empty/d", plan9.OREAD, plan9.DMDIR|0o755)
	require.NoError(t, err)
	dir, err = root.Stat("empty/d")
	require.NoError(t, err)
	assert.NotZero(t, dir.Mode&plan9.DMDIR)

	// While one reads and blocks, another writes the same file.
	r, err := root.Open("s", plan9.OREAD)
	require.NoError(t, err)
	w, err := root.Open("s", plan9.OWRITE)
	require.NoError(t, err)
	got := make(chan string, 1)
	go func() {
		b := make([]byte, 100)
		n, _ := r.Read(b)
		got <- string(b[:n])
	}()
	take(t, "read", st.waiting)
	wrote := make(chan error, 1)
	go func() {
		_, err := w.Write([]byte("ping"))
		wrote <- err
	}()
	assert.Equal(t, "ping", take(t, "write", st.out))
	require.NoError(t, take(t, "Rwrite", wrote))
	give(t, "record", st.in, "pong")
	assert.Equal(t, "pong", take(t, "read", got))
	require.NoError(t, r.Close())
	require.NoError(t, w.Close())
}

func TestGo9pClient(t *testing.T) {
	fs := basicTree()
	st := fs.streamFile("s")
	ts := serve(t, fs)
	c, err := go9p.NewClient(ts.dial(), "glenda", "")
	require.NoError(t, err)
	stats, err := c.Readdir("/dir")
	require.NoError(t, err)
	require.Len(t, stats, 2)
	assert.Equal(t, "sub", stats[0].Name)
	f, err := c.Open("/dir/sub/deep", proto.Oread)
	require.NoError(t, err)
	b, err := io.ReadAll(f)
	require.NoError(t, err)
	assert.Equal(t, "down here\n", string(b))
	require.NoError(t, f.Close())
	_, err = c.Open("/nothing", proto.Oread)
	assert.Error(t, err)
	f, err = c.Create("/empty/new", 0o644)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	// A file that this client created it cannot write: it forgets the I/O unit.
	f, err = c.Open("/empty/new", proto.Owrite)
	require.NoError(t, err)
	_, err = f.Write([]byte("text"))
	require.NoError(t, err)
	require.NoError(t, f.Close())
	stat, err := c.Stat("/empty/new")
	require.NoError(t, err)
	assert.EqualValues(t, 4, stat.Length)
	require.NoError(t, c.Remove("/empty/new"))

	f, err = c.Open("/s", proto.Ordwr)
	require.NoError(t, err)
	got := make(chan string, 1)
	go func() {
		b := make([]byte, 100)
		n, _ := f.Read(b)
		got <- string(b[:n])
	}()
	take(t, "read", st.waiting)
	_, err = c.Stat("/a")
	require.NoError(t, err)
	give(t, "record", st.in, "pong")
	assert.Equal(t, "pong", take(t, "read", got))
}
