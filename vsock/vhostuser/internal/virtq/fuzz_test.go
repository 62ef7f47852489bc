package virtq

import (
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// FuzzWalk lets the input be the guest's memory, rings and all, and walks what
// is announced there: nothing may be handed out that is not in the regions,
// and every walk must end.
func FuzzWalk(f *testing.F) {
	seed := func(head uint16, direct, table []desc) {
		r := newRing(f, nil)
		for i, d := range direct {
			d.put(r.a[16*i:])
		}
		for i, d := range table {
			d.put(r.a[tableAt+16*i:])
		}
		r.offer(head)
		f.Add(r.a[:16*num], r.a[availAt:availAt+6+2*num], r.a[usedAt:usedAt+4], r.a[tableAt:tableAt+128], true)
	}
	seed(0, []desc{{guestA + 0x8000, 44, descNext, 3}, {}, {}, {guestB, 4096, 0, 9}}, nil)
	seed(1, []desc{{}, {guestA + tableAt, 48, descIndirect, 0}}, []desc{{guestB, 10, descNext, 2}, {}, {guestB + 100, 20, 0, 0}})
	seed(0, []desc{{guestA, 1, descNext | descWrite, 0}}, nil)
	seed(9, nil, nil)
	seed(0, []desc{{guestB + sizeB - 10, 11, descWrite, 0}}, nil)

	f.Fuzz(func(t *testing.T, descs, avail, used, table []byte, indirect bool) {
		r := newRing(t, func(l *Layout) { l.Indirect = indirect })
		copy(r.a[descAt:availAt], descs)
		copy(r.a[availAt:usedAt], avail)
		copy(r.a[usedAt:tableAt], used)
		copy(r.a[tableAt:], table)
		q, err := Start(r.mem, r.q.Layout())
		require.NoError(t, err)
		for _, dir := range []Dir{Read, Write} {
			n, err := q.Avail()
			if err != nil {
				require.ErrorIs(t, err, ErrGuest)
				return
			}
			require.LessOrEqual(t, n, num)
			for i := range n {
				c, err := q.Chain(i, dir, nil)
				if err != nil {
					require.ErrorIs(t, err, ErrGuest)
					continue
				}
				total := 0
				for _, s := range c.Segs {
					require.NotEmpty(t, s)
					require.True(t, within(s, r.a) || within(s, r.b))
					total += len(s)
				}
				require.Equal(t, c.Len, total)
				if i == 0 && dir == Write {
					CopyIn(c.Segs, []byte("the device writes where the guest says"))
					q.Use(c, 1)
					q.Publish()
					_, _ = q.Ask()
				}
			}
		}
	})
}

func within(s, all []byte) bool {
	p, base := uintptr(unsafe.Pointer(&s[0])), uintptr(unsafe.Pointer(&all[0]))
	return p >= base && p+uintptr(len(s)) <= base+uintptr(len(all))
}
