package virtq

import (
	"sync/atomic"
	"unsafe"
)

// The rings' 16-bit words are shared with the guest's CPUs and need atomic,
// ordered access, which Go has for 32 bits. So the aligned 32-bit word around
// each is used: regions are page-aligned, hence it is always inside.
//
// Go's atomics are sequentially consistent, on every architecture. That is
// what the rings' two "store mine, then look at yours" steps rely on: used.idx
// before used_event, and avail_event before avail.idx.

// word returns the 32-bit word around the 16 bits at b[off], and their shift
// in it on a little-endian machine. b[off] must be 2-aligned.
func word(b []byte, off int) (p *uint32, shift uint) {
	at := unsafe.Pointer(&b[off : off+2][0])
	odd := uintptr(at) & 2
	return (*uint32)(unsafe.Add(at, -int(odd))), uint(odd) * 8
}

func load16(b []byte, off int) uint16 {
	p, shift := word(b, off)
	return uint16(atomic.LoadUint32(p) >> shift)
}

// storeTries bounds the fight for a word whose other half the guest writes
// without pause. Only a guest that wants to hold us up gets near it.
const storeTries = 1 << 12

func store16(b []byte, off int, v uint16) {
	p, shift := word(b, off)
	for range storeTries {
		old := atomic.LoadUint32(p)
		if atomic.CompareAndSwapUint32(p, old, old&^(0xffff<<shift)|uint32(v)<<shift) {
			return
		}
	}
	// The guest loses what it wrote to the other half: its own doing.
	atomic.StoreUint32(p, uint32(v)<<shift)
}

func aligned(b []byte, n uintptr) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(b)))&(n-1) == 0
}
