package virtq

import (
	"encoding/binary"
	"fmt"
)

const (
	descNext     = 1
	descWrite    = 2
	descIndirect = 4
	descSize     = 16
)

// maxIndirect is the most descriptors an indirect table may have; more than
// this QEMU's own devices do not take either.
const maxIndirect = 1024

// Dir is the direction of a chain's buffers, as the device sees them.
type Dir uint16

const (
	// Read is for buffers the guest filled.
	Read Dir = 0
	// Write is for buffers the guest wants filled.
	Write Dir = descWrite
)

// Chain is one buffer of the guest.
type Chain struct {
	// Segs are its pieces in the guest's memory, none of them empty.
	Segs [][]byte
	// Len is their length together.
	Len  int
	head uint16
}

// Chain walks the i-th chain of those that wait, all of whose buffers must be
// of the direction dir, and appends its pieces to segs.
func (q *Queue) Chain(i int, dir Dir, segs [][]byte) (Chain, error) {
	slot := (q.next + uint16(i)) & uint16(q.layout.Num-1)
	c := Chain{head: binary.LittleEndian.Uint16(q.avail[4+2*int(slot):])}
	from := len(segs)

	table, idx, left, direct := q.desc, uint32(c.head), q.layout.Num, true
	for ; ; left-- {
		if int(idx) >= len(table)/descSize {
			return c, fmt.Errorf("%w: descriptor %d of %d", ErrGuest, idx, len(table)/descSize)
		}
		if left == 0 {
			return c, fmt.Errorf("%w: endless descriptor chain from %d", ErrGuest, c.head)
		}
		d := table[idx*descSize:][:descSize]
		addr := binary.LittleEndian.Uint64(d)
		n := binary.LittleEndian.Uint32(d[8:])
		flags := binary.LittleEndian.Uint16(d[12:])
		idx = uint32(binary.LittleEndian.Uint16(d[14:]))

		if flags&descIndirect != 0 {
			var err error
			if table, err = q.indirect(addr, n, flags, direct); err != nil {
				return c, err
			}
			// left is checked before use: one more for this round's end.
			idx, left, direct = 0, n/descSize+1, false
			continue
		}
		if Dir(flags&descWrite) != dir {
			return c, fmt.Errorf("%w: descriptor with flags %#x in a ring of the other direction", ErrGuest, flags)
		}
		var err error
		if segs, err = q.mem.AppendGuest(segs, addr, n); err != nil {
			return c, err
		}
		if c.Len += int(n); c.Len > 1<<30 {
			return c, fmt.Errorf("%w: buffer of %d bytes", ErrGuest, c.Len)
		}
		if flags&descNext == 0 {
			c.Segs = segs[from:len(segs):len(segs)]
			return c, nil
		}
	}
}

func (q *Queue) indirect(addr uint64, n uint32, flags uint16, direct bool) ([]byte, error) {
	switch {
	case !q.layout.Indirect:
		return nil, fmt.Errorf("%w: indirect descriptor without the feature", ErrGuest)
	case !direct:
		return nil, fmt.Errorf("%w: indirect descriptor in an indirect table", ErrGuest)
	case flags&descNext != 0:
		return nil, fmt.Errorf("%w: descriptor both indirect and chained", ErrGuest)
	case n == 0 || n%descSize != 0 || n/descSize > maxIndirect:
		return nil, fmt.Errorf("%w: indirect table of %d bytes", ErrGuest, n)
	}
	return q.mem.guest(addr, uint64(n))
}

// CopyOut copies the first bytes of segs to p and returns how many.
func CopyOut(p []byte, segs [][]byte) (n int) {
	for _, s := range segs {
		n += copy(p[n:], s)
	}
	return n
}

// CopyIn copies p to the first bytes of segs and returns how many.
func CopyIn(segs [][]byte, p []byte) (n int) {
	for _, s := range segs {
		n += copy(s, p[n:])
	}
	return n
}
