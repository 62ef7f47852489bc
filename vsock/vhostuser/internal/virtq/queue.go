package virtq

import (
	"encoding/binary"
	"fmt"
)

// MaxNum is the largest number of entries a split ring can have.
const MaxNum = 1 << 15

// The flags of a ring's two halves.
const (
	usedNoNotify     = 1
	availNoInterrupt = 1
)

// Layout says where a ring is and how the driver agreed to use it.
type Layout struct {
	// Num is the number of entries, a power of two.
	Num uint32
	// Desc, Avail and Used are addresses in the process that runs the guest.
	Desc, Avail, Used uint64
	// EventIdx and Indirect are the negotiated features of these names.
	EventIdx, Indirect bool
}

// Queue is a started ring. Chains are used in the order in which they came
// and, between calls, none is held back: so the position is used.idx, and a
// device that starts anew finds it in the guest's memory.
//
// It is not for concurrent use.
type Queue struct {
	mem               *Memory
	layout            Layout
	desc, avail, used []byte

	next      uint16 // of the avail ring, and of the used one
	published uint16 // used.idx as the guest can see it
	signalled uint16 // used.idx when the guest was last signalled
	told      bool   // whether signalled means anything
	muted     bool   // the driver was asked not to kick (without EventIdx)
}

// Start begins at the position found in the ring.
func Start(mem *Memory, l Layout) (*Queue, error) {
	q := &Queue{}
	if err := q.place(mem, l); err != nil {
		return nil, err
	}
	q.next = load16(q.used, 2)
	q.published = q.next
	return q, nil
}

// Move goes on with the same ring after the memory was mapped anew.
func (q *Queue) Move(mem *Memory) error { return q.place(mem, q.layout) }

func (q *Queue) place(mem *Memory, l Layout) error {
	if l.Num == 0 || l.Num > MaxNum || l.Num&(l.Num-1) != 0 {
		return fmt.Errorf("%w: ring of %d entries", ErrGuest, l.Num)
	}
	n := uint64(l.Num)
	desc, err := mem.user(l.Desc, 16*n)
	if err != nil {
		return fmt.Errorf("descriptor table: %w", err)
	}
	avail, err := mem.user(l.Avail, 6+2*n)
	if err != nil {
		return fmt.Errorf("avail ring: %w", err)
	}
	used, err := mem.user(l.Used, 6+8*n)
	if err != nil {
		return fmt.Errorf("used ring: %w", err)
	}
	if !aligned(desc, 16) || !aligned(avail, 2) || !aligned(used, 4) {
		return fmt.Errorf("%w: ring not aligned: descriptors at %#x, avail at %#x, used at %#x", ErrGuest, l.Desc, l.Avail, l.Used)
	}
	q.mem, q.layout, q.desc, q.avail, q.used = mem, l, desc, avail, used
	return nil
}

// Layout returns where the ring is.
func (q *Queue) Layout() Layout { return q.layout }

// Next returns the position of the next chain.
func (q *Queue) Next() uint16 { return q.next }

// Avail returns how many chains wait.
func (q *Queue) Avail() (int, error) {
	n := load16(q.avail, 2) - q.next
	if uint32(n) > q.layout.Num {
		return 0, fmt.Errorf("%w: %d chains announced on a ring of %d", ErrGuest, n, q.layout.Num)
	}
	return int(n), nil
}

// Use hands a chain back, the next in turn, with n bytes written to it. The
// guest learns of it by Publish.
func (q *Queue) Use(c Chain, n uint32) {
	at := 4 + 8*int(q.next&uint16(q.layout.Num-1))
	binary.LittleEndian.PutUint32(q.used[at:], uint32(c.head))
	binary.LittleEndian.PutUint32(q.used[at+4:], n)
	q.next++
}

// Publish shows the guest the chains handed back so far, and reports whether
// it wants to be signalled for them.
func (q *Queue) Publish() (signal bool) {
	if q.published == q.next {
		return false
	}
	store16(q.used, 2, q.next)
	q.published = q.next
	if !q.layout.EventIdx {
		return load16(q.avail, 0)&availNoInterrupt == 0
	}
	event := load16(q.avail, 4+2*int(q.layout.Num))
	old, told := q.signalled, q.told
	q.signalled, q.told = q.next, true
	return !told || q.next-event-1 < q.next-old
}

// Ask makes the guest kick when it adds a chain, and reports whether one has
// come meanwhile: then there may be no kick for it.
func (q *Queue) Ask() (more bool, err error) {
	if q.layout.EventIdx {
		store16(q.used, 4+8*int(q.layout.Num), q.next)
	} else if q.muted {
		store16(q.used, 0, 0)
		q.muted = false
	}
	n, err := q.Avail()
	return n > 0, err
}

// Mute asks the guest not to kick until Ask. It may do so all the same.
func (q *Queue) Mute() {
	if !q.layout.EventIdx && !q.muted {
		store16(q.used, 0, usedNoNotify)
		q.muted = true
	}
}
