package ninep

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/hugelgupf/p9/fsimpl/localfs"
	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"
	"github.com/stretchr/testify/require"

	"vmfs/ninep/wire/wiretest"
)

// flatFS is a tree that allocates nothing: a directory of small files. What
// the benchmarks count is thus the server's own.
type flatFS struct{ flatFile }

type flatFile struct {
	p9.File // what is not there panics
	dir     *flatFS
	qid     p9.QID
	data    []byte
	files   map[string]*flatFile
}

func newFlatFS() *flatFS {
	fs := new(flatFS)
	fs.qid = p9.QID{Type: p9.TypeDir, Path: 1}
	fs.files = make(map[string]*flatFile)
	for i, name := range []string{"state", "memory"} {
		fs.files[name] = &flatFile{dir: fs, qid: p9.QID{Path: uint64(i + 2)}, data: []byte("sixteen bytes..\n")}
	}
	return fs
}

func (fs *flatFS) Attach() (p9.File, error) { return &fs.flatFile, nil }

func (f *flatFile) WalkOne(name string) (p9.QID, p9.File, error) {
	if to := f.files[name]; to != nil {
		return to.qid, to, nil
	}
	return p9.QID{}, nil, linux.ENOENT
}

func (f *flatFile) Walk(names []string) ([]p9.QID, p9.File, error) { return nil, f, nil }
func (f *flatFile) Close() error                                   { return nil }

func (f *flatFile) GetAttr(req p9.AttrMask) (p9.QID, p9.AttrMask, p9.Attr, error) {
	mode := p9.ModeRegular | 0o644
	if f.files != nil {
		mode = p9.ModeDirectory | 0o755
	}
	return f.qid, req, p9.Attr{Mode: mode, NLink: 1, Size: uint64(len(f.data))}, nil
}

func (f *flatFile) Open(p9.OpenFlags) (p9.QID, uint32, error) { return f.qid, 0, nil }

func (f *flatFile) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(len(f.data)) {
		return 0, io.EOF
	}
	return copy(p, f.data[off:]), nil
}

func (f *flatFile) WriteAt(p []byte, off int64) (int, error) { return len(p), nil }

// benchConn sends a batch of requests and takes all the replies, without
// allocating.
type benchConn struct {
	net.Conn
	buf []byte
}

func (c *benchConn) exchange(b testing.TB, batch []byte, replies int) {
	if _, err := c.Write(batch); err != nil {
		b.Fatal(err)
	}
	have, pos := 0, 0
	for replies > 0 {
		for have-pos >= 4 {
			n := int(binary.LittleEndian.Uint32(c.buf[pos:]))
			if have-pos < n {
				break
			}
			if c.buf[pos+4] == 7 {
				b.Fatalf("Rlerror %d", binary.LittleEndian.Uint32(c.buf[pos+7:]))
			}
			pos += n
			replies--
		}
		if replies == 0 {
			return
		}
		have = copy(c.buf, c.buf[pos:have])
		pos = 0
		n, err := c.Read(c.buf[have:])
		if err != nil {
			b.Fatal(err)
		}
		have += n
	}
}

func benchDial(b testing.TB, a p9.Attacher) *benchConn { return benchDialAs(b, a, "9P2000.L") }

func benchDialAs(b testing.TB, a p9.Attacher, dialect string) *benchConn {
	ts := serve(b, a)
	c := ts.raw(dialect).attach()
	return &benchConn{Conn: c.Conn, buf: make([]byte, 1<<20)}
}

type kv = map[string]string

// benchOps are the hot paths; each is the frames of one operation.
var benchOps = []struct {
	name   string
	setup  [][2]any
	frames [][2]any
}{
	{"getattr", nil, [][2]any{{"Tgetattr", kv{"fid": "0", "mask": "0x7ff"}}}},
	{"walk+clunk", nil, [][2]any{
		{"Twalk", kv{"fid": "0", "newfid": "5", "names": "state"}}, {"Tclunk", kv{"fid": "5"}}}},
	{"walk+open+read+clunk", nil, [][2]any{
		{"Twalk", kv{"fid": "0", "newfid": "5", "names": "state"}}, {"Tlopen", kv{"fid": "5"}},
		{"Tread", kv{"fid": "5", "count": "4096"}}, {"Tclunk", kv{"fid": "5"}}}},
	{"write", [][2]any{{"Twalk", kv{"fid": "0", "newfid": "6", "names": "memory"}}, {"Tlopen", kv{"fid": "6", "flags": "1"}}},
		[][2]any{{"Twrite", kv{"fid": "6", "data": "sixteen bytes..\n"}}}},
}

func benchFrames(list [][2]any) (b []byte) {
	for i, f := range list {
		args := make(kv)
		for k, v := range f[1].(kv) {
			args[k] = v
		}
		b = append(b, wiretest.Encode("9P2000.L", f[0].(string), uint16(i), args)...)
	}
	return b
}

// BenchmarkHotPaths measures whole operations over a Unix socket, with one or
// 64 of them under way. Client and server are one process, and the client
// allocates nothing.
func BenchmarkHotPaths(b *testing.B) {
	for _, depth := range []int{1, 64} {
		for _, op := range benchOps {
			b.Run(op.name+"/"+map[int]string{1: "one", 64: "many"}[depth], func(b *testing.B) {
				c := benchDial(b, newFlatFS())
				if op.setup != nil {
					c.exchange(b, benchFrames(op.setup), len(op.setup))
				}
				one := benchFrames(op.frames)
				var batch []byte
				for range depth {
					batch = append(batch, one...)
				}
				c.exchange(b, batch, depth*len(op.frames))
				b.ReportAllocs()
				b.ResetTimer()
				for n := 0; n < b.N; n += depth {
					c.exchange(b, batch, depth*len(op.frames))
				}
			})
		}
	}
}

// BenchmarkLocalFS is the same over p9's localfs, whose own allocations show.
func BenchmarkLocalFS(b *testing.B) {
	dir := b.TempDir()
	require.NoError(b, os.WriteFile(filepath.Join(dir, "state"), []byte("sixteen bytes..\n"), 0o644))
	for _, op := range benchOps[:3] {
		b.Run(op.name, func(b *testing.B) {
			c := benchDial(b, localfs.Attacher(dir))
			one := benchFrames(op.frames)
			var batch []byte
			for range 64 {
				batch = append(batch, one...)
			}
			b.ReportAllocs()
			for n := 0; n < b.N; n += 64 {
				c.exchange(b, batch, 64*len(op.frames))
			}
		})
	}
}

// TestNoAllocations holds the hot paths to what the benchmarks show.
func TestNoAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	for _, op := range benchOps {
		c := benchDial(t, newFlatFS())
		if op.setup != nil {
			c.exchange(t, benchFrames(op.setup), len(op.setup))
		}
		batch := benchFrames(op.frames)
		for range 200 {
			c.exchange(t, batch, len(op.frames))
		}
		n := testing.AllocsPerRun(2000, func() { c.exchange(t, batch, len(op.frames)) })
		if n >= 1 {
			t.Errorf("%s allocates %v times an operation", op.name, n)
		}
	}
}

// TestNoAllocationsOfStat is the same for the dialects that have Tstat.
func TestNoAllocationsOfStat(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	for _, dialect := range []string{"9P2000", "9P2000.u"} {
		c := benchDialAs(t, newFlatFS(), dialect)
		batch := wiretest.Encode(dialect, "Tstat", 1, kv{"fid": "0"})
		for range 200 {
			c.exchange(t, batch, 1)
		}
		n := testing.AllocsPerRun(2000, func() { c.exchange(t, batch, 1) })
		if n >= 1 {
			t.Errorf("Tstat of %s allocates %v times", dialect, n)
		}
	}
}
