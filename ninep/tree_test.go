package ninep

import (
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/hugelgupf/p9/fsimpl/localfs"
	"github.com/hugelgupf/p9/fsimpl/staticfs"
	fstest "github.com/hugelgupf/p9/fsimpl/test"
	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/ninep/wire/wiretest"
)

// TestRenameFollows renames a directory under the feet of fids in it, on the
// same connection and on another. localfs finds files by path, so it works
// only if every File is told.
func TestRenameFollows(t *testing.T) {
	dir := t.TempDir()
	ts := serve(t, localfs.Attacher(dir))
	one, two := p9Root(t, ts), p9Root(t, ts)
	for _, p := range [][]string{{"a"}, {"a", "b"}, {"z"}} {
		_, d, err := one.Walk(p[:len(p)-1])
		require.NoError(t, err)
		_, err = d.Mkdir(p[len(p)-1], 0o755, p9.NoUID, p9.NoGID)
		require.NoError(t, err)
	}
	_, b, err := one.Walk([]string{"a", "b"})
	require.NoError(t, err)
	f, _, _, err := b.Create("f", p9.ReadWrite, 0o644, p9.NoUID, p9.NoGID)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("text"), 0)
	require.NoError(t, err)

	walk := func(root p9.File, names ...string) p9.File {
		t.Helper()
		_, f, err := root.Walk(names)
		require.NoError(t, err)
		return f
	}
	there := func(f p9.File) {
		t.Helper()
		_, _, err := f.Open(p9.ReadOnly)
		require.NoError(t, err)
		got, err := io.ReadAll(io.NewSectionReader(f, 0, 100))
		require.NoError(t, err)
		require.Equal(t, "text", string(got))
		require.NoError(t, f.Close())
	}
	f1, f2 := walk(one, "a", "b", "f"), walk(two, "a", "b", "f")
	require.NoError(t, one.RenameAt("a", one, "A"))
	there(f1)
	there(f2)

	// Into another directory: the other client has a fid of that one.
	z2 := walk(two, "z")
	f1, f2 = walk(one, "A", "b", "f"), walk(two, "A", "b", "f")
	f3 := walk(two, "A", "b", "f")
	require.NoError(t, walk(one, "A").RenameAt("b", walk(one, "z"), "B"))
	there(f1)
	there(f2)
	type remover interface{ Remove() error }
	require.NoError(t, f3.(remover).Remove())
	_, _, err = z2.Walk([]string{"B", "f"})
	assert.ErrorIs(t, err, linux.ENOENT)

	// And without one: the name is lost to it.
	_, _, _, err = walk(one, "z", "B").Create("g", p9.ReadWrite, 0o644, p9.NoUID, p9.NoGID)
	require.NoError(t, err)
	require.NoError(t, z2.Close())
	require.NoError(t, two.Close())
	three := p9Root(t, ts)
	g := walk(three, "z", "B", "g")
	_, err = one.Mkdir("new", 0o755, p9.NoUID, p9.NoGID)
	require.NoError(t, err)
	require.NoError(t, walk(one, "z", "B").RenameAt("g", walk(one, "new"), "G"))
	_, _, err = g.Open(p9.ReadOnly)
	assert.ErrorIs(t, err, linux.ENOENT)
}

// TestUnlinkedFid: what is made anew under an old name is not what an old fid
// was for.
func TestUnlinkedFid(t *testing.T) {
	fs := basicTree()
	ts := serve(t, fs)
	one, two := ts.raw("9P2000.L").attach(), ts.raw("9P2000.L").attach()
	two.rpc("Twalk", "Rwalk", "fid", "0", "newfid", "1", "names", "dir")
	two.rpc("Twalk", "Rwalk", "fid", "0", "newfid", "2", "names", "dir,sub,deep")
	one.rpc("Twalk", "Rwalk", "fid", "0", "newfid", "1", "names", "dir")
	one.rpc("Twalk", "Rwalk", "fid", "1", "newfid", "2", "names", "sub")
	one.rpc("Tunlinkat", "Runlinkat", "dfid", "2", "name", "deep")
	one.rpc("Tunlinkat", "Runlinkat", "dfid", "1", "name", "sub")
	one.rpc("Tmkdir", "Rmkdir", "dfid", "1", "name", "sub", "mode", "0755")
	two.rpc("Tlopen", "Rlerror", "fid", "2")
	two.rpc("Twalk", "Rwalk", "fid", "1", "newfid", "3", "names", "sub")
	one.rpc("Twalk", "Rlerror", "fid", "2", "newfid", "9", "names", "x")
	one.rpc("Tmkdir", "Rlerror", "dfid", "2", "name", "x")
}

// TestRemoveIsOfTheFile: a fid whose file was replaced behind the server's back
// removes nothing, least of all the file that has the name now.
func TestRemoveIsOfTheFile(t *testing.T) {
	for _, dir := range []string{"dir", "slow"} {
		fs := basicTree()
		fs.file(dir+"/f", "old")
		ts := serve(t, fs)
		c := ts.raw("9P2000.L").attach()
		c.rpc("Twalk", "Rwalk", "fid", "0", "newfid", "1", "names", dir+",f")
		c.rpc("Twalk", "Rwalk", "fid", "0", "newfid", "2", "names", dir)
		fs.file(dir+"/f", "new")
		assert.True(t, wiretest.Equal(c.rpc("Tremove", "Rlerror", "fid", "1")["ecode"], "ENOENT"), dir)
		c.rpc("Twalk", "Rwalk", "fid", "2", "newfid", "1", "names", "f")
		c.rpc("Tremove", "Rremove", "fid", "1")
		c.rpc("Twalk", "Rlerror", "fid", "2", "newfid", "1", "names", "f")
	}
}

// TestContextDirs: changes of the name space that take a context.
func TestContextDirs(t *testing.T) {
	fs := basicTree()
	ts := serve(t, fs)
	c, other := ts.raw("9P2000.L").attach(), ts.raw("9P2000.L").attach()
	c.rpc("Twalk", "Rwalk", "fid", "0", "newfid", "1", "names", "slow")
	c.rpc("Tmkdir", "Rmkdir", "dfid", "1", "name", "d", "mode", "0755")
	c.rpc("Tmkdir", "Rlerror", "dfid", "1", "name", "d", "mode", "0755")
	c.rpc("Twalk", "Rwalk", "fid", "1", "newfid", "2", "names", "d")
	c.rpc("Trenameat", "Rrenameat", "olddfid", "1", "oldname", "d", "newdfid", "1", "newname", "e")
	c.rpc("Trename", "Rrename", "fid", "2", "dfid", "1", "name", "f")
	c.rpc("Tsetattr", "Rsetattr", "fid", "1", "valid", "1", "mode", "0700")
	c.rpc("Tremove", "Rremove", "fid", "2")
	c.rpc("Twalk", "Rwalk", "fid", "1", "newfid", "2")
	c.rpc("Tlcreate", "Rlcreate", "fid", "2", "name", "new", "flags", "2", "mode", "0644")
	c.rpc("Twrite", "Rwrite", "fid", "2", "data", "x")
	c.rpc("Tunlinkat", "Runlinkat", "dfid", "1", "name", "new")
	c.rpc("Twalk", "Rlerror", "fid", "1", "newfid", "3", "names", "new")

	// One that blocks holds up nothing that changes the tree elsewhere.
	c.send("Tmkdir", 20, "dfid", "1", "name", "blocks")
	other.rpc("Tmkdir", "Rmkdir", "dfid", "0", "name", "other")
	c.rpc("Tgetattr", "Rgetattr", "fid", "1")
	c.send("Tflush", 21, "oldtag", "20")
	c.want("Rlerror", 20, "ecode", "EINTR")
	c.want("Rflush", 21)
}

// TestFlushOrder: several flushes of one request, and flushes of those, are
// answered in order, after the request.
func TestFlushOrder(t *testing.T) {
	fs := basicTree()
	st := fs.streamFile("s")
	st.hold = make(chan struct{})
	ts := serve(t, fs)
	c := ts.raw("9P2000.L").attach()
	c.rpc("Twalk", "Rwalk", "fid", "0", "newfid", "1", "names", "s")
	c.rpc("Tlopen", "Rlopen", "fid", "1", "flags", "2")
	c.send("Tread", 10, "fid", "1", "count", "10")
	take(t, "read", st.waiting)
	c.send("Tflush", 11, "oldtag", "10")
	c.send("Tflush", 12, "oldtag", "11")
	c.send("Tflush", 13, "oldtag", "10")
	c.send("Tflush", 14, "oldtag", "12")
	c.rpc("Tgetattr", "Rgetattr", "fid", "0") // none of them is answered yet
	c.send("Tgetattr", 12, "fid", "0")
	c.want("Rlerror", 12, "ecode", "EINVAL") // a flush's tag is in use too
	close(st.hold)
	c.want("Rlerror", 10, "ecode", "EINTR")
	for tag := uint16(11); tag <= 14; tag++ {
		c.want("Rflush", tag)
	}
	c.send("Tgetattr", 12, "fid", "0")
	c.want("Rgetattr", 12)
}

// TestReadersDelayNobody blocks many readers of one file and sees that others
// go on, and that each can be interrupted by itself.
func TestReadersDelayNobody(t *testing.T) {
	fs := basicTree()
	st := fs.streamFile("s")
	ts := serve(t, fs)
	var cs []*rawClient
	for range 10 {
		c := ts.raw("9P2000.L").attach()
		c.rpc("Twalk", "Rwalk", "fid", "0", "newfid", "1", "names", "s")
		c.rpc("Tlopen", "Rlopen", "fid", "1", "flags", "2")
		c.send("Tread", 5, "fid", "1", "count", "10")
		take(t, "read", st.waiting)
		cs = append(cs, c)
	}
	for i, c := range cs {
		c.rpc("Tmkdir", "Rmkdir", "dfid", "0", "name", fmt.Sprintf("d%d", i))
		c.send("Tflush", 6, "oldtag", "5")
		c.want("Rlerror", 5)
		c.want("Rflush", 6)
	}
}

// TestStorm has many clients do everything at once on one tree without locks
// of its own: the race detector is the judge.
func TestStorm(t *testing.T) {
	fs := basicTree()
	fs.streamFile("s")
	ts := serve(t, fs)
	var wg sync.WaitGroup
	for i := range 6 {
		root := p9Root(t, ts)
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(i), 2))
			for n := range 150 {
				name := fmt.Sprintf("n%d", rnd.IntN(4))
				_, d, err := root.Walk([]string{"dir"})
				if err != nil {
					t.Error(err)
					return
				}
				switch rnd.IntN(7) {
				case 0:
					_, _ = d.Mkdir(name, 0o755, p9.NoUID, p9.NoGID)
				case 1:
					if f, _, _, err := d.Create(name, p9.ReadWrite, 0o644, p9.NoUID, p9.NoGID); err == nil {
						_, _ = f.WriteAt([]byte("data"), int64(n))
						d = f
					}
				case 2:
					_ = d.UnlinkAt(name, 0)
				case 3:
					_ = d.RenameAt(name, root, name)
				case 4:
					_ = root.RenameAt(name, d, name)
				case 5:
					if _, f, err := d.Walk([]string{name}); err == nil {
						_, _, _ = f.Open(p9.ReadOnly)
						_, _ = f.ReadAt(make([]byte, 10), 0)
						_, _, _, _ = f.GetAttr(p9.AttrMaskAll)
						_ = f.Close()
					}
				case 6:
					_, _, _ = d.Open(p9.ReadOnly)
					_, _ = d.Readdir(0, 1000)
				}
				_ = d.Close()
			}
		})
	}
	wg.Wait()
}

// through is an attacher that is another one seen through server and client.
type through struct{ root func() (p9.File, error) }

func (t through) Attach() (p9.File, error) { return t.root() }

// throughFile makes a client's File behave as a server's: there, Create leaves
// the directory's File what it was.
type throughFile struct{ p9.File }

func (f throughFile) Walk(names []string) ([]p9.QID, p9.File, error) {
	qids, to, err := f.File.Walk(names)
	return qids, throughFile{to}, err
}

func (f throughFile) Create(name string, flags p9.OpenFlags, perm p9.FileMode, uid p9.UID, gid p9.GID) (p9.File, p9.QID, uint32, error) {
	_, c, err := f.File.Walk(nil)
	if err != nil {
		return nil, p9.QID{}, 0, err
	}
	return c.Create(name, flags, perm, uid, gid)
}

// Readdir counts entries, as a server's File may, and the client bytes.
func (f throughFile) Readdir(off uint64, count uint32) (p9.Dirents, error) {
	ents, err := f.File.Readdir(off, 300*count)
	return ents[:min(len(ents), int(count))], err
}

// TestFSImplSuite runs p9's own suite for files through the server.
func TestFSImplSuite(t *testing.T) {
	client := func(t *testing.T, a p9.Attacher) p9.Attacher {
		ts := serve(t, a)
		return through{func() (p9.File, error) {
			c, err := p9.NewClient(ts.dial())
			if err != nil {
				return nil, err
			}
			root, err := c.Attach("")
			return throughFile{root}, err
		}}
	}
	t.Run("localfs", func(t *testing.T) {
		t.Run("file", func(t *testing.T) { fstest.TestFile(t, client(t, localfs.Attacher(t.TempDir()))) })
		t.Run("readwrite", func(t *testing.T) { fstest.TestReadWriteFS(t, client(t, localfs.Attacher(t.TempDir()))) })
	})
	t.Run("staticfs", func(t *testing.T) {
		a, err := staticfs.New(staticfs.WithFile("foo.txt", "barbarbar"), staticfs.WithFile("baz.txt", "x"))
		require.NoError(t, err)
		attr := p9.Attr{Mode: p9.ModeRegular | 0o666, Size: 9, BlockSize: 4096}
		fstest.TestReadOnlyFS(t, client(t, a),
			fstest.WithDir("", "foo.txt", "baz.txt"),
			fstest.WithFile("foo.txt", "barbarbar", attr, p9.AttrMaskAll))
	})
}

// TestLongReads: the first read of a file gets no more than most files have, so
// that a client that always asks for a message full does not cost one each time;
// the reads that follow it in a long file get what they ask for.
func TestLongReads(t *testing.T) {
	fs := basicTree()
	text := strings.Repeat("0123456789abcdef", 30000)
	fs.file("long", text)
	ts := serve(t, fs)
	c := ts.raw("9P2000.L")
	c.rpc("Tversion", "Rversion", "msize", "1000000", "version", "9P2000.L")
	c.attach()
	c.rpc("Twalk", "Rwalk", "fid", "0", "newfid", "1", "names", "long")
	c.rpc("Tlopen", "Rlopen", "fid", "1")
	var got strings.Builder
	var counts []string
	for {
		vals := c.rpc("Tread", "Rread", "fid", "1", "offset", strconv.Itoa(got.Len()), "count", "200000")
		if vals["count"] == "0" {
			break
		}
		counts = append(counts, vals["count"])
		got.WriteString(wiretest.String(vals["data"]))
	}
	assert.True(t, text == got.String())
	assert.Equal(t, []string{strconv.Itoa(maxBlocked), "200000", "200000", strconv.Itoa(480000 - 400000 - maxBlocked)}, counts)
}
