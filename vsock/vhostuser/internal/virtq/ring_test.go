package virtq

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
)

// The tests' guest has two regions of memory, apart in both address spaces,
// with the ring at the start of the first.
const (
	guestA, userA, sizeA = 0x10000, 0x7f00_0000_0000, 0x10000
	guestB, userB, sizeB = 0x100000, 0x7e00_0000_0000, 0x8000
	num                  = 8
	descAt               = 0
	availAt              = 0x1000
	usedAt               = 0x2000
	tableAt              = 0x3000 // of an indirect table
)

type testRing struct {
	t    testing.TB
	a, b []byte
	mem  *Memory
	q    *Queue
}

// pages returns aligned memory of Go's heap.
func pages(n int) []byte { return make([]byte, n) }

func newRing(t testing.TB, change func(*Layout)) *testRing {
	t.Helper()
	r := &testRing{t: t, a: pages(sizeA), b: pages(sizeB)}
	var err error
	r.mem, err = NewMemory([]Region{{Guest: guestB, User: userB, Data: r.b}, {Guest: guestA, User: userA, Data: r.a}})
	require.NoError(t, err)
	l := Layout{Num: num, Desc: userA + descAt, Avail: userA + availAt, Used: userA + usedAt, EventIdx: true, Indirect: true}
	if change != nil {
		change(&l)
	}
	r.q, err = Start(r.mem, l)
	require.NoError(t, err)
	return r
}

type desc struct {
	addr  uint64
	len   uint32
	flags uint16
	next  uint16
}

func (d desc) put(b []byte) {
	binary.LittleEndian.PutUint64(b, d.addr)
	binary.LittleEndian.PutUint32(b[8:], d.len)
	binary.LittleEndian.PutUint16(b[12:], d.flags)
	binary.LittleEndian.PutUint16(b[14:], d.next)
}

// offer announces the chain that begins with head.
func (r *testRing) offer(heads ...uint16) {
	for _, h := range heads {
		idx := binary.LittleEndian.Uint16(r.a[availAt+2:])
		binary.LittleEndian.PutUint16(r.a[availAt+4+2*int(idx%num):], h)
		binary.LittleEndian.PutUint16(r.a[availAt+2:], idx+1)
	}
}

func (r *testRing) u16(at int) uint16 { return binary.LittleEndian.Uint16(r.a[at:]) }
