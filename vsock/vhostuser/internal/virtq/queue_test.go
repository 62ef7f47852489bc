package virtq

import (
	"bytes"
	"encoding/binary"
	"math"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestChains(t *testing.T) {
	for _, tt := range []struct {
		name   string
		direct []desc
		table  []desc // indirect, at tableAt
		dir    Dir
		lens   []int // of the pieces, for chains that are good
		bad    bool
		change func(*Layout)
	}{
		{name: "one", direct: []desc{{guestA + 0x8000, 44, 0, 0}}, lens: []int{44}},
		{name: "chained", direct: []desc{{guestA + 0x8000, 44, descNext, 3}, {}, {}, {guestB, 4096, 0, 9}}, lens: []int{44, 4096}},
		{name: "written", direct: []desc{{guestA + 0x8000, 44, descWrite, 0}}, dir: Write, lens: []int{44}},
		{name: "empty piece", direct: []desc{{guestA, 0, descNext, 1}, {guestA, 1, 0, 0}}, lens: []int{1}},
		{name: "empty piece anywhere", direct: []desc{{math.MaxUint64, 0, descNext, 1}, {guestA, 1, 0, 0}}, lens: []int{1}},
		{name: "to the end of memory", direct: []desc{{guestB + sizeB - 10, 10, 0, 0}}, lens: []int{10}},
		{name: "indirect", direct: []desc{{guestA + tableAt, 48, descIndirect, 0}},
			table: []desc{{guestB, 10, descNext, 2}, {}, {guestB + 100, 20, 0, 0}}, lens: []int{10, 20}},
		{name: "indirect behind direct", direct: []desc{{guestB, 1, descNext, 1}, {guestA + tableAt, 16, descIndirect, 0}},
			table: []desc{{guestB, 10, 0, 0}}, lens: []int{1, 10}},

		{name: "no memory", direct: []desc{{0, 44, 0, 0}}, bad: true},
		{name: "below memory", direct: []desc{{guestA - 1, 44, 0, 0}}, bad: true},
		{name: "beyond the end", direct: []desc{{guestB + sizeB - 10, 11, 0, 0}}, bad: true},
		{name: "at the end", direct: []desc{{guestB + sizeB, 1, 0, 0}}, bad: true},
		{name: "across a hole", direct: []desc{{guestA + sizeA - 1, 2, 0, 0}}, bad: true},
		{name: "wraps around", direct: []desc{{math.MaxUint64 - 1, 44, 0, 0}}, bad: true},
		{name: "4 GiB", direct: []desc{{guestA, math.MaxUint32, 0, 0}}, bad: true},
		{name: "user address", direct: []desc{{userA + 0x8000, 44, 0, 0}}, bad: true},
		{name: "loop of one", direct: []desc{{guestA, 1, descNext, 0}}, bad: true},
		{name: "loop of two", direct: []desc{{guestA, 1, descNext, 1}, {guestA, 1, descNext, 0}}, bad: true},
		{name: "loop of nothing", direct: []desc{{guestA, 0, descNext, 0}}, bad: true},
		{name: "next outside", direct: []desc{{guestA, 1, descNext, num}}, bad: true},
		{name: "next far outside", direct: []desc{{guestA, 1, descNext, 0xffff}}, bad: true},
		{name: "other direction", direct: []desc{{guestA, 44, descWrite, 0}}, bad: true},
		{name: "other direction later", direct: []desc{{guestA, 44, descNext, 1}, {guestA, 44, descWrite, 0}}, bad: true},
		{name: "readable for writing", direct: []desc{{guestA, 44, 0, 0}}, dir: Write, bad: true},
		{name: "indirect not agreed", direct: []desc{{guestA + tableAt, 16, descIndirect, 0}},
			table: []desc{{guestB, 10, 0, 0}}, bad: true, change: func(l *Layout) { l.Indirect = false }},
		{name: "indirect and next", direct: []desc{{guestA + tableAt, 16, descIndirect | descNext, 1}, {guestA, 1, 0, 0}},
			table: []desc{{guestB, 10, 0, 0}}, bad: true},
		{name: "indirect in indirect", direct: []desc{{guestA + tableAt, 32, descIndirect, 0}},
			table: []desc{{guestA + tableAt, 16, descIndirect, 0}, {}}, bad: true},
		{name: "indirect of nothing", direct: []desc{{guestA + tableAt, 0, descIndirect, 0}}, bad: true},
		{name: "indirect of half an entry", direct: []desc{{guestA + tableAt, 24, descIndirect, 0}}, table: []desc{{guestB, 1, 0, 0}}, bad: true},
		{name: "indirect too long", direct: []desc{{guestA + tableAt, 16 * (maxIndirect + 1), descIndirect, 0}}, table: []desc{{guestB, 1, 0, 0}}, bad: true},
		{name: "indirect of 4 GiB", direct: []desc{{guestA + tableAt, math.MaxUint32 &^ 15, descIndirect, 0}}, bad: true},
		{name: "indirect outside", direct: []desc{{guestB + sizeB - 8, 16, descIndirect, 0}}, bad: true},
		{name: "indirect loop", direct: []desc{{guestA + tableAt, 32, descIndirect, 0}},
			table: []desc{{guestB, 1, descNext, 1}, {guestB, 1, descNext, 0}}, bad: true},
		{name: "indirect next outside", direct: []desc{{guestA + tableAt, 32, descIndirect, 0}},
			table: []desc{{guestB, 1, descNext, 2}, {}}, bad: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRing(t, tt.change)
			for i, d := range tt.direct {
				d.put(r.a[descAt+16*i:])
			}
			for i, d := range tt.table {
				d.put(r.a[tableAt+16*i:])
			}
			r.offer(0)
			n, err := r.q.Avail()
			require.NoError(t, err)
			require.Equal(t, 1, n)
			c, err := r.q.Chain(0, tt.dir, nil)
			if tt.bad {
				require.ErrorIs(t, err, ErrGuest)
				return
			}
			require.NoError(t, err)
			var lens []int
			sum := 0
			for _, s := range c.Segs {
				lens = append(lens, len(s))
				sum += len(s)
			}
			assert.Equal(t, tt.lens, lens)
			assert.Equal(t, sum, c.Len)
		})
	}
}

func TestHeadOutside(t *testing.T) {
	r := newRing(t, nil)
	r.offer(num)
	_, err := r.q.Chain(0, Read, nil)
	assert.ErrorIs(t, err, ErrGuest)
}

func TestAvailTooFar(t *testing.T) {
	r := newRing(t, nil)
	binary.LittleEndian.PutUint16(r.a[availAt+2:], num)
	n, err := r.q.Avail()
	require.NoError(t, err)
	assert.Equal(t, num, n)
	for _, idx := range []uint16{num + 1, 0x8000, 0xffff} {
		binary.LittleEndian.PutUint16(r.a[availAt+2:], idx)
		_, err = r.q.Avail()
		assert.ErrorIs(t, err, ErrGuest)
	}
}

// TestAround uses chains until the 16-bit counters have run over.
func TestAround(t *testing.T) {
	r := newRing(t, nil)
	for i := range num {
		desc{guestB + uint64(i)*16, 16, descWrite, 0}.put(r.a[descAt+16*i:])
	}
	for i := range 33000 {
		head := uint16(i*3) % num
		r.offer(head, (head+1)%num)
		n, err := r.q.Avail()
		require.NoError(t, err)
		require.Equal(t, 2, n)
		for j := range 2 {
			c, err := r.q.Chain(0, Write, nil)
			require.NoError(t, err)
			require.Equal(t, 16, CopyIn(c.Segs, bytes.Repeat([]byte{byte(i)}, 20)))
			r.q.Use(c, uint32(i))
			slot := usedAt + 4 + 8*((2*i+j)%num)
			require.Equal(t, uint32((int(head)+j)%num), binary.LittleEndian.Uint32(r.a[slot:]))
			require.Equal(t, uint32(i), binary.LittleEndian.Uint32(r.a[slot+4:]))
		}
		require.Equal(t, uint16(2*i), r.u16(usedAt+2), "not shown before Publish")
		r.q.Publish()
		require.Equal(t, uint16(2*i+2), r.u16(usedAt+2))
		require.Equal(t, byte(i), r.b[16*int(head)])
	}
	again, err := Start(r.mem, r.q.Layout())
	require.NoError(t, err)
	assert.Equal(t, r.q.Next(), again.Next())
}

func TestLookAhead(t *testing.T) {
	r := newRing(t, nil)
	for i := range num {
		desc{guestB, uint32(i + 1), 0, 0}.put(r.a[descAt+16*i:])
	}
	r.offer(4, 2, 7)
	var segs [][]byte
	for i, want := range []int{5, 3, 8} {
		c, err := r.q.Chain(i, Read, segs)
		require.NoError(t, err)
		assert.Equal(t, want, c.Len)
		assert.Len(t, c.Segs, 1)
		segs = append(segs, c.Segs...)
	}
}

func TestSignalsWithEventIdx(t *testing.T) {
	r := newRing(t, nil)
	desc{guestB, 1, 0, 0}.put(r.a)
	event := availAt + 4 + 2*num
	use := func(n int) bool {
		for range n {
			r.offer(0)
			c, err := r.q.Chain(0, Read, nil)
			require.NoError(t, err)
			r.q.Use(c, 0)
		}
		return r.q.Publish()
	}
	assert.False(t, r.q.Publish(), "nothing new")
	assert.True(t, use(1), "the first is always told")
	binary.LittleEndian.PutUint16(r.a[event:], 3)
	assert.False(t, use(2), "used 2 and 3, wants to hear of number 4")
	assert.True(t, use(1))
	assert.False(t, use(3), "told already")
	binary.LittleEndian.PutUint16(r.a[event:], 8)
	assert.True(t, use(5), "went past it")

	more, err := r.q.Ask()
	require.NoError(t, err)
	assert.False(t, more)
	assert.Equal(t, r.q.Next(), r.u16(usedAt+4+8*num))
	r.offer(0)
	more, err = r.q.Ask()
	require.NoError(t, err)
	assert.True(t, more)
	r.q.Mute()
	assert.Zero(t, r.u16(usedAt), "flags are not used with event indices")
}

func TestSignalsWithFlags(t *testing.T) {
	r := newRing(t, func(l *Layout) { l.EventIdx = false })
	desc{guestB, 1, 0, 0}.put(r.a)
	use := func() bool {
		r.offer(0)
		c, err := r.q.Chain(0, Read, nil)
		require.NoError(t, err)
		r.q.Use(c, 0)
		return r.q.Publish()
	}
	assert.True(t, use())
	binary.LittleEndian.PutUint16(r.a[availAt:], availNoInterrupt)
	assert.False(t, use())
	r.q.Mute()
	assert.EqualValues(t, usedNoNotify, r.u16(usedAt))
	_, err := r.q.Ask()
	require.NoError(t, err)
	assert.Zero(t, r.u16(usedAt))
	assert.EqualValues(t, 2, r.u16(usedAt+2), "the index beside the flags stays")
}

func TestBadLayouts(t *testing.T) {
	r := newRing(t, nil)
	good := r.q.Layout()
	for name, change := range map[string]func(*Layout){
		"no entries":              func(l *Layout) { l.Num = 0 },
		"not a power of two":      func(l *Layout) { l.Num = 12 },
		"too many entries":        func(l *Layout) { l.Num = 1 << 16 },
		"descriptors outside":     func(l *Layout) { l.Desc = 0 },
		"avail outside":           func(l *Layout) { l.Avail = userA + sizeA - 8 },
		"used outside":            func(l *Layout) { l.Used = userB + sizeB - 64 },
		"guest address":           func(l *Layout) { l.Desc = guestA },
		"descriptors not aligned": func(l *Layout) { l.Desc += 8 },
		"avail not aligned":       func(l *Layout) { l.Avail++ },
		"used not aligned":        func(l *Layout) { l.Used += 2 },
		"wraps around":            func(l *Layout) { l.Used = math.MaxUint64 - 15 },
	} {
		l := good
		change(&l)
		_, err := Start(r.mem, l)
		assert.ErrorIs(t, err, ErrGuest, name)
	}
	l := good
	l.Avail += 2 // odd, as far as 32 bits go, and allowed
	q, err := Start(r.mem, l)
	require.NoError(t, err)
	binary.LittleEndian.PutUint16(r.a[availAt+4:], 3)
	n, err := q.Avail()
	require.NoError(t, err)
	assert.Equal(t, 3, n)
}

func TestMove(t *testing.T) {
	r := newRing(t, nil)
	desc{guestB, 1, 0, 0}.put(r.a)
	r.offer(0)
	c, err := r.q.Chain(0, Read, nil)
	require.NoError(t, err)
	r.q.Use(c, 0)
	bigger, err := NewMemory([]Region{
		{Guest: guestA, User: userA, Data: r.a}, {Guest: guestB, User: userB, Data: r.b},
		{Guest: guestB + sizeB, User: 1 << 40, Data: pages(4096)},
	})
	require.NoError(t, err)
	require.NoError(t, r.q.Move(bigger))
	assert.EqualValues(t, 1, r.q.Next())
	desc{guestB + sizeB - 1, 2, 0, 0}.put(r.a)
	r.offer(0)
	c, err = r.q.Chain(0, Read, nil)
	require.NoError(t, err, "the new memory joins on to the old")
	assert.Len(t, c.Segs, 2)

	smaller, err := NewMemory([]Region{{Guest: guestB, User: userB, Data: r.b}})
	require.NoError(t, err)
	assert.ErrorIs(t, r.q.Move(smaller), ErrGuest)
}

func TestBadMemory(t *testing.T) {
	p := pages(4096)
	for name, rs := range map[string][]Region{
		"guest overlap": {{Guest: 0, User: 0, Data: p}, {Guest: 4095, User: 1 << 20, Data: p}},
		"user overlap":  {{Guest: 0, User: 0, Data: p}, {Guest: 1 << 20, User: 4095, Data: p}},
		"same twice":    {{Guest: 0, User: 0, Data: p}, {Guest: 0, User: 0, Data: p}},
		"empty":         {{Guest: 0, User: 0, Data: nil}},
		"guest wraps":   {{Guest: math.MaxUint64 - 100, User: 0, Data: p}},
		"user wraps":    {{Guest: 0, User: math.MaxUint64 - 100, Data: p}},
	} {
		_, err := NewMemory(rs)
		assert.Error(t, err, name)
	}
	m, err := NewMemory(nil)
	require.NoError(t, err)
	_, err = m.AppendGuest(nil, 0, 1)
	assert.ErrorIs(t, err, ErrGuest)
}

// TestHostileNeighbour has a guest write the other half of a word that is
// stored to, without a pause.
func TestHostileNeighbour(t *testing.T) {
	b := pages(8)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := uint16(0); ; i++ {
			select {
			case <-stop:
				return
			default:
				store16(b, 2, i)
			}
		}
	})
	for i := range 20000 {
		store16(b, 0, uint16(i))
		require.Equal(t, uint16(i), load16(b, 0))
	}
	close(stop)
	wg.Wait()
}

func TestCopies(t *testing.T) {
	segs := [][]byte{make([]byte, 3), make([]byte, 1), make([]byte, 10)}
	assert.Equal(t, 9, CopyIn(segs, []byte("virtqueue")))
	out := make([]byte, 6)
	assert.Equal(t, 6, CopyOut(out, segs))
	assert.Equal(t, "virtqu", string(out))
	assert.Equal(t, 14, CopyOut(make([]byte, 20), segs))
	assert.Equal(t, 14, CopyIn(segs, make([]byte, 20)))
}
