package ninep

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hugelgupf/p9/p9"
	"github.com/stretchr/testify/require"

	"vmfs/ninep/wire/wiretest"
)

// pipeServer serves one end of a pipe and gives the other. The function it
// gives ends that and checks what is left.
func pipeServer(t testing.TB, fs *memFS, a p9.Attacher) (*rawClient, func()) {
	log := new(logBuf)
	srv := &Server{Attacher: a, Log: slog.New(slog.NewTextHandler(log, nil)), Limits: Limits{Fids: 40, Requests: 20, Msize: 8192}}
	near, far := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.ServeConn(context.Background(), far)
	}()
	return &rawClient{t: t, Conn: near, dialect: "9P2000.L"}, func() {
		near.Close()
		select {
		case <-done:
		case <-time.After(patience):
			t.Fatal("the server does not end")
		}
		if n := fs.open.Load(); n != 0 {
			t.Fatalf("%d Files left open", n)
		}
		for _, bad := range []string{"closed twice", "opened twice", "level=ERROR"} {
			if s := log.String(); strings.Contains(s, bad) && !strings.Contains(s, "as told") {
				t.Fatalf("log: %s", s)
			}
		}
	}
}

// FuzzSession throws bytes at a session. Whatever they are, the server must
// end, close every File once, and say nothing that is malformed.
func FuzzSession(f *testing.F) {
	files, err := filepath.Glob("testdata/*.trace")
	require.NoError(f, err)
	for _, file := range files {
		f.Add(traceBytes(f, file))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		throwBytes(t, data)
	})
}

func throwBytes(t *testing.T, data []byte) {
	// By turns the tree's users need looking up, which makes an attach one more
	// request that has a goroutine of its own.
	fs := basicTree()
	a := p9.Attacher(fs)
	if len(data)%2 == 0 {
		a = quickUsers{fs}
	}
	c, end := pipeServer(t, fs, a)
	defer end()
	replies := make(chan error, 1)
	go func() { replies <- drainReplies(c) }()
	_ = c.SetWriteDeadline(time.Now().Add(patience))
	_, _ = c.Write(data)
	c.Close()
	if err := <-replies; err != nil {
		t.Fatal(err)
	}
}

// drainReplies checks the form of what comes.
func drainReplies(c *rawClient) error {
	for {
		frame, err := c.recvFrame()
		if err != nil {
			if strings.Contains(err.Error(), "bad length") {
				return err
			}
			return nil
		}
		ok := false
		for _, d := range []string{"9P2000.L", "9P2000", "9P2000.u"} {
			if _, _, _, err = wiretest.Decode(d, frame); err == nil {
				ok = true
			}
		}
		if !ok {
			return fmt.Errorf("malformed reply: % x", frame)
		}
	}
}

// traceBytes gives what a trace sends.
func traceBytes(f testing.TB, file string) (b []byte) {
	text, err := os.ReadFile(file)
	require.NoError(f, err)
	dialect := "9P2000.L"
	for line := range strings.Lines(string(text)) {
		words, err := splitTrace(strings.TrimSpace(line))
		require.NoError(f, err)
		switch {
		case len(words) > 1 && words[0] == "version":
			dialect = words[1]
		case len(words) > 2 && words[0] == "T":
			args, err := traceArgs(words[3:])
			require.NoError(f, err)
			b = append(b, wiretest.Encode(dialect, words[2], uint16(wiretest.Number(words[1])), args)...)
		}
	}
	return b
}

// FuzzModel runs random requests, valid and not, against a model of what a
// session is, and compares every outcome.
func FuzzModel(f *testing.F) {
	for seed := range 20 {
		b := make([]byte, 400)
		x := uint32(seed + 1)
		for i := range b {
			x = x*1664525 + 1013904223
			b[i] = byte(x >> 24)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 2000 {
			return
		}
		fs := newMemFS()
		c, end := pipeServer(t, fs, fs)
		defer end()
		m := newModel(t, c, data)
		for m.more() {
			m.step()
		}
	})
}

// modelNode is a file of the model.
type modelNode struct {
	dir    bool
	kids   map[string]*modelNode
	data   []byte
	parent *modelNode
	name   string
	gone   bool
}

type modelFid struct {
	n    *modelNode
	open bool
	mode int
}

type model struct {
	t    testing.TB
	c    *rawClient
	data []byte
	root *modelNode
	fids map[int]*modelFid
	log  []string
}

func newModel(t testing.TB, c *rawClient, data []byte) *model {
	m := &model{t: t, c: c, data: data, root: &modelNode{dir: true, kids: map[string]*modelNode{}}}
	m.version()
	return m
}

func (m *model) version() {
	m.fids = make(map[int]*modelFid)
	m.ask("Tversion", "Rversion", "msize", "8192", "version", "9P2000.L")
}

func (m *model) more() bool { return len(m.data) >= 6 }

func (m *model) pick(n int) int {
	v := int(m.data[0]) % n
	m.data = m.data[1:]
	return v
}

var modelNames = []string{"x", "y", "z", "..", ".", ""}

func (m *model) name() string { return modelNames[min(m.pick(16), 20)%len(modelNames)] }

// gone reports whether a file or one above it was removed.
func (n *modelNode) isGone() bool {
	for ; n != nil; n = n.parent {
		if n.gone {
			return true
		}
	}
	return false
}

// ask sends a request and takes the reply that must come; "" is an error.
func (m *model) ask(name, reply string, args ...string) map[string]string {
	m.t.Helper()
	m.log = append(m.log, fmt.Sprint(name, args))
	if reply == "" {
		reply = "Rlerror"
	}
	m.c.send(name, 3, args...)
	got, tag, vals := m.c.recv()
	if got != reply || tag != 3 {
		m.t.Fatalf("%s %v, want %s after\n%s", got, vals, reply, strings.Join(m.log[max(0, len(m.log)-40):], "\n"))
	}
	return vals
}

// outcome is the reply for a request that succeeds if ok.
func outcome(name string, ok bool) string {
	if ok {
		return "R" + name[1:]
	}
	return ""
}

func goodName(s string) bool { return s != "" && s != "." && s != ".." }

func (m *model) step() {
	op := m.pick(15)
	fid := m.pick(6)
	f := m.fids[fid]
	num := strconv.Itoa(fid)
	switch op {
	case 0:
		ok := f == nil
		m.ask("Tattach", outcome("Tattach", ok), "fid", num, "afid", "NOFID")
		if ok {
			m.fids[fid] = &modelFid{n: m.root}
		}
	case 1, 2, 3:
		m.walk(fid, f)
	case 4:
		mode := m.pick(3)
		ok := f != nil && !f.open && !(f.n.dir && mode != 0) && !f.n.isGone()
		m.ask("Tlopen", outcome("Tlopen", ok), "fid", num, "flags", strconv.Itoa(mode))
		if ok {
			f.open, f.mode = true, mode
		}
	case 5:
		ok := f != nil && f.open && f.mode != 1 && !f.n.dir
		vals := m.ask("Tread", outcome("Tread", ok), "fid", num, "count", "100")
		if ok && wiretest.String(vals["data"]) != string(f.n.data[:min(len(f.n.data), 100)]) {
			m.t.Fatalf("read %s, want %q", vals["data"], f.n.data)
		}
	case 6:
		ok := f != nil && f.open && f.mode != 0
		text := strings.Repeat("d", m.pick(5)+1)
		m.ask("Twrite", outcome("Twrite", ok), "fid", num, "data", text)
		if ok {
			f.n.data = append([]byte(text), f.n.data[min(len(text), len(f.n.data)):]...)
		}
	case 7:
		m.ask("Tclunk", outcome("Tclunk", f != nil), "fid", num)
		delete(m.fids, fid)
	case 8:
		ok := f != nil && f.n.parent != nil && !f.n.isGone() && len(f.n.kids) == 0
		m.ask("Tremove", outcome("Tremove", ok), "fid", num)
		delete(m.fids, fid)
		if ok {
			f.n.unlink()
		}
	case 9:
		name := m.name()
		ok := f != nil && f.n.dir && !f.open && goodName(name) && !f.n.isGone()
		var n *modelNode // what is opened if it is there, with or without O_EXCL
		flags := []int{2, 0o202}[m.pick(2)]
		if ok {
			n = f.n.kids[name]
			ok = n == nil || !n.dir && flags == 2
		}
		m.ask("Tlcreate", outcome("Tlcreate", ok), "fid", num, "name", name, "flags", strconv.Itoa(flags), "mode", "0644")
		if ok {
			if n == nil {
				n = f.n.add(name, false)
			}
			m.fids[fid] = &modelFid{n: n, open: true, mode: 2}
		}
	case 10:
		name := m.name()
		ok := f != nil && f.n.dir && goodName(name) && !f.n.isGone() && f.n.kids[name] == nil
		m.ask("Tmkdir", outcome("Tmkdir", ok), "dfid", num, "name", name, "mode", "0755")
		if ok {
			f.n.add(name, true)
		}
	case 11:
		name := m.name()
		ok := f != nil && f.n.dir && goodName(name) && !f.n.isGone() && f.n.kids[name] != nil && len(f.n.kids[name].kids) == 0
		m.ask("Tunlinkat", outcome("Tunlinkat", ok), "dfid", num, "name", name)
		if ok {
			f.n.kids[name].unlink()
		}
	case 12:
		m.rename(f, num)
	case 13:
		m.ask("Tgetattr", outcome("Tgetattr", f != nil), "fid", num)
		m.ask("Tflush", "Rflush", "oldtag", "7")
	case 14:
		if m.pick(8) == 0 {
			m.version()
			return
		}
		ok := f != nil && f.n.dir && f.open
		vals := m.ask("Treaddir", outcome("Treaddir", ok && !f.n.isGone()), "fid", num, "count", "1000")
		if ok && !f.n.isGone() {
			var want []string
			for name := range f.n.kids {
				want = append(want, name)
			}
			slices.Sort(want)
			var got []string
			for _, e := range wiretest.List(vals["entries"]) {
				got = append(got, strings.Split(e, ":")[0])
			}
			if !slices.Equal(got, want) {
				m.t.Fatalf("directory has %v, want %v", got, want)
			}
		}
	}
}

func (n *modelNode) add(name string, dir bool) *modelNode {
	k := &modelNode{dir: dir, parent: n, name: name}
	if dir {
		k.kids = map[string]*modelNode{}
	}
	n.kids[name] = k
	return k
}

func (n *modelNode) unlink() {
	delete(n.parent.kids, n.name)
	n.gone = true
}

func (m *model) walk(fid int, f *modelFid) {
	to := m.pick(6)
	var names []string
	for range m.pick(4) {
		if len(m.data) > 1 {
			names = append(names, m.name())
		}
	}
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = strconv.Quote(n)
	}
	args := []string{"fid", strconv.Itoa(fid), "newfid", strconv.Itoa(to), "names", strings.Join(quoted, ",")}
	if f == nil || fid != to && m.fids[to] != nil || fid == to && f.open {
		m.ask("Twalk", "", args...)
		return
	}
	n, got := f.n, 0
	for _, name := range names {
		if !n.dir || n.isGone() {
			break
		}
		next := n.kids[name]
		if name == ".." {
			if next = n.parent; next == nil {
				next = n
			}
		}
		if name == "." {
			next = n
		}
		if next == nil {
			break
		}
		n = next
		got++
	}
	if len(names) > 0 && got == 0 {
		m.ask("Twalk", "", args...)
		return
	}
	vals := m.ask("Twalk", "Rwalk", args...)
	if n := len(wiretest.List(vals["qids"])); n != got {
		m.t.Fatalf("walked %d names, want %d", n, got)
	}
	if got == len(names) {
		m.fids[to] = &modelFid{n: n}
	}
}

func (m *model) rename(f *modelFid, num string) {
	name, newName := m.name(), modelNames[m.pick(3)]
	to := m.pick(6)
	d := m.fids[to]
	ok := f != nil && f.n.dir && d != nil && d.n.dir && goodName(name)
	same := ok && f.n == d.n && name == newName
	if ok {
		ok = !f.n.isGone() && !d.n.isGone() && f.n.kids[name] != nil
		for up := d.n; ok && !same && up != nil; up = up.parent {
			ok = up != f.n.kids[name]
		}
	}
	m.ask("Trenameat", outcome("Trenameat", ok), "olddfid", num, "oldname", name, "newdfid", strconv.Itoa(to), "newname", newName)
	if ok && !same {
		n := f.n.kids[name]
		if old := d.n.kids[newName]; old != nil {
			old.gone = true
		}
		delete(f.n.kids, name)
		d.n.kids[newName] = n
		n.parent, n.name = d.n, newName
	}
}

// TestRandomSessions is FuzzModel for a while on random bytes, and FuzzSession
// on conversations that were damaged.
func TestRandomSessions(t *testing.T) {
	length := 2 * time.Second
	if testing.Short() {
		length = 200 * time.Millisecond
	}
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(uint64(seed), 0))
	var n, steps int
	for end := time.Now().Add(length); time.Now().Before(end); n++ {
		data := make([]byte, 3000)
		for i := range data {
			data[i] = byte(rnd.Uint32())
		}
		fs := newMemFS()
		c, done := pipeServer(t, fs, fs)
		for m := newModel(t, c, data); m.more(); steps++ {
			m.step()
		}
		done()
	}
	t.Logf("%d sessions, %d requests agree with the model", n, steps)

	files, err := filepath.Glob("testdata/*.trace")
	require.NoError(t, err)
	for end := time.Now().Add(length); time.Now().Before(end); {
		data := traceBytes(t, files[rnd.IntN(len(files))])
		for range 1 + rnd.IntN(20) {
			switch i := rnd.IntN(len(data)); rnd.IntN(3) {
			case 0:
				data[i] = byte(rnd.Uint32())
			case 1:
				data = slices.Delete(data, i, min(len(data), i+rnd.IntN(8)))
			case 2:
				data = slices.Insert(data, i, data[i:min(len(data), i+rnd.IntN(40))]...)
			}
		}
		throwBytes(t, data)
	}
}
