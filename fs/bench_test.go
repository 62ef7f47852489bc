package fs

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"testing"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/machine"
	"vmfs/ninep"
	"vmfs/ninep/dial"
)

// manyVMs is a tree with a thousand VMs.
func manyVMs(t testing.TB) *Tree {
	t.Helper()
	host := newHost(t)
	for i := range 1000 {
		_, err := host.Create(fmt.Sprintf("vm-%03d", i), machine.Owner{UID: ownUID(), GID: ownGID(), Mode: 0o700})
		require.NoError(t, err)
	}
	vm, _ := host.VM("vm-500")
	require.NoError(t, vm.Start(context.Background()))
	return New(host, Options{})
}

// wire is a 9P2000.L connection that sends frames made beforehand and checks
// what comes, without allocating.
type wire struct {
	t    testing.TB
	conn net.Conn
	buf  []byte
	srv  *ninep.Server // of this connection alone
}

// dialWire serves the tree on a Unix socket of this process and attaches fid 0.
func dialWire(t testing.TB, tree *Tree) *wire {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "vmfs")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	ln, err := dial.Listen(context.Background(), "unix!"+dir+"/s")
	require.NoError(t, err)
	srv := &ninep.Server{Attacher: tree}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(context.Background(), ln) }()
	conn, err := dial.Dial(context.Background(), dial.String(ln.Addr()))
	require.NoError(t, err)
	t.Cleanup(func() {
		conn.Close()
		require.NoError(t, srv.Shutdown(context.Background()))
		require.NoError(t, <-done)
	})
	w := &wire{t: t, conn: conn, buf: make([]byte, 256<<10), srv: srv}
	w.exchange(frame(100, 0xffff, uint32(65536), "9P2000.L"), 1)
	w.exchange(frame(104, 0, uint32(0), ^uint32(0), "", "", ^uint32(0)), 1)
	return w
}

// frame makes a message of fields.
func frame(typ uint8, tag uint16, fields ...any) []byte {
	b := []byte{0, 0, 0, 0, typ, uint8(tag), uint8(tag >> 8)}
	for _, f := range fields {
		if s, ok := f.(string); ok {
			b = append(binary.LittleEndian.AppendUint16(b, uint16(len(s))), s...)
			continue
		}
		b, _ = binary.Append(b, binary.LittleEndian, f)
	}
	binary.LittleEndian.PutUint32(b, uint32(len(b)))
	return b
}

// walkTo makes a Twalk from the root.
func walkTo(tag uint16, newfid uint32, names ...string) []byte {
	fields := []any{uint32(0), newfid, uint16(len(names))}
	for _, name := range names {
		fields = append(fields, name)
	}
	return frame(110, tag, fields...)
}

// exchange sends a batch and takes its replies.
func (w *wire) exchange(batch []byte, replies int) {
	if _, err := w.conn.Write(batch); err != nil {
		w.t.Fatal(err)
	}
	for have := 0; replies > 0; {
		n, err := w.conn.Read(w.buf[have:])
		if err != nil {
			w.t.Fatal(err)
		}
		have += n
		pos := 0
		for have-pos >= 7 {
			size := int(binary.LittleEndian.Uint32(w.buf[pos:]))
			if have-pos < size {
				break
			}
			if w.buf[pos+4] == 7 {
				w.t.Fatalf("reply %d is errno %d", replies, binary.LittleEndian.Uint32(w.buf[pos+7:]))
			}
			pos += size
			replies--
		}
		have = copy(w.buf, w.buf[pos:have])
	}
}

// hotPath is an operation on a file of the tree: frames to prepare it, and
// those of one time.
type hotPath struct {
	name    string
	prepare [][]byte
	frames  [][]byte
}

func hotPaths() []hotPath {
	getattr := func(names ...string) hotPath {
		return hotPath{"getattr", [][]byte{walkTo(0, 1, names...)}, [][]byte{frame(24, 0, uint32(1), uint64(0x7ff))}}
	}
	cat := func(names ...string) hotPath {
		return hotPath{"cat", nil, [][]byte{
			walkTo(0, 5, names...), frame(12, 1, uint32(5), uint32(0)),
			frame(116, 2, uint32(5), uint64(0), uint32(4096)), frame(120, 3, uint32(5)),
		}}
	}
	var list []hotPath
	add := func(p hotPath, name string) {
		p.name += " " + name
		list = append(list, p)
	}
	add(getattr(), "root")
	add(getattr("vm-500"), "vm")
	add(getattr("vm-500", "state"), "vm/state")
	add(hotPath{"write", [][]byte{walkTo(0, 6, "vm-500", "ctl"), frame(12, 0, uint32(6), uint32(1))},
		[][]byte{frame(118, 0, uint32(6), uint64(0), uint32(16), []byte("# fifteen bytes\n"))}}, "vm/ctl")
	for _, name := range []string{"state", "memory", "pid", "error", "capabilities"} {
		add(cat("vm-500", name), "vm/"+name)
	}
	return list
}

// BenchmarkTree measures whole operations on the tree with a thousand VMs over
// a Unix socket, one at a time and 64 at once. The client is in the same process.
func BenchmarkTree(b *testing.B) {
	tree := manyVMs(b)
	for _, p := range hotPaths() {
		for _, depth := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/%d", p.name, depth), func(b *testing.B) {
				w := dialWire(b, tree)
				for _, f := range p.prepare {
					w.exchange(f, 1)
				}
				var batch []byte
				for i := range depth {
					for j, f := range p.frames {
						batch = append(batch, f...)
						tag := batch[len(batch)-len(f)+5:]
						binary.LittleEndian.PutUint16(tag, uint16(i*len(p.frames)+j))
					}
				}
				n := depth * len(p.frames)
				w.exchange(batch, n)
				b.ReportAllocs()
				for i := 0; i < b.N; i += depth {
					w.exchange(batch, n)
				}
			})
		}
	}
}

// BenchmarkList lists a thousand VMs as ls -l does.
func BenchmarkList(b *testing.B) {
	tree := manyVMs(b)
	root, err := tree.Attach()
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		_, d, err := root.Walk(nil)
		require.NoError(b, err)
		_, _, err = d.Open(0)
		require.NoError(b, err)
		n := 0
		for off := uint64(0); ; {
			ents, err := d.Readdir(off, 1000)
			if err == io.EOF {
				break
			}
			require.NoError(b, err)
			n += len(ents)
			off = ents[len(ents)-1].Offset
		}
		require.Greater(b, n, 1000)
		require.NoError(b, d.Close())
	}
}

// TestNoAllocations holds the hot paths to what the benchmarks show.
func TestNoAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	tree := manyVMs(t)
	for _, p := range hotPaths() {
		switch p.name {
		case "cat vm/capabilities":
			continue
		case "write vm/ctl":
			continue // see TestAllocationsOfACommand
		}
		w := dialWire(t, tree)
		for _, f := range p.prepare {
			w.exchange(f, 1)
		}
		batch := slices.Concat(p.frames...)
		for range 200 {
			w.exchange(batch, len(p.frames))
		}
		n := testing.AllocsPerRun(2000, func() { w.exchange(batch, len(p.frames)) })
		assert.Less(t, n, 1.0, p.name)
	}
}

// TestAllocationsOfACommand holds a command, which may block and so has a goroutine, to
// what it needs: no table is made for each.
func TestAllocationsOfACommand(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	w := dialWire(t, manyVMs(t))
	for _, p := range hotPaths() {
		if p.name != "write vm/ctl" {
			continue
		}
		for _, f := range p.prepare {
			w.exchange(f, 1)
		}
		batch := slices.Concat(p.frames...)
		n := testing.AllocsPerRun(2000, func() { w.exchange(batch, len(p.frames)) })
		assert.Less(t, n, 12.0)
	}
}

// TestFidsAreNotMixedUp opens and closes fids in any order, twice over, and
// looks whether each is what it was opened as.
func TestFidsAreNotMixedUp(t *testing.T) {
	host := newHost(t)
	tree := New(host, Options{})
	for i := range 8 {
		_, err := host.Create(fmt.Sprintf("vm-%d", i), machine.Owner{UID: ownUID(), Mode: 0o700})
		require.NoError(t, err)
	}
	root, err := tree.Attach()
	require.NoError(t, err)
	rnd := rand.New(rand.NewPCG(1, 2))
	type held struct {
		dir, f p9.File
		uuid   string
	}
	var all []held
	buf := make([]byte, 4096)
	check := func(h held) {
		n, err := h.f.ReadAt(buf, 0)
		require.NoError(t, err)
		require.Contains(t, string(buf[:n]), "uuid="+h.uuid+"\n")
	}
	for range 5000 {
		if len(all) == 0 || len(all) < 100 && rnd.IntN(2) == 0 {
			vm, ok := host.VM(fmt.Sprintf("vm-%d", rnd.IntN(8)))
			require.True(t, ok)
			_, d, err := root.Walk([]string{vm.Name()})
			require.NoError(t, err)
			_, f, err := d.Walk([]string{"info"})
			require.NoError(t, err)
			_, err = f.ReadAt(buf, 0)
			require.ErrorIs(t, err, linux.EBADF, "a fid that comes again is not open")
			_, _, err = f.Open(p9.ReadOnly)
			require.NoError(t, err)
			all = append(all, held{d, f, vm.UUID()})
			continue
		}
		i := rnd.IntN(len(all))
		check(all[i])
		require.NoError(t, all[i].f.Close())
		require.NoError(t, all[i].dir.Close())
		all[i] = all[len(all)-1]
		all = all[:len(all)-1]
	}
	for _, h := range all {
		check(h)
	}
}
