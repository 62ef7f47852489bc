package ninep

import "sync"

// buf is a buffer that goes back to a pool, so that an idle connection holds
// none.
type buf struct{ b []byte }

// bufSizes are the sizes that are pooled; the last holds the default message.
var bufSizes = [...]int{4 << 10, 16 << 10, 64 << 10, 256 << 10, 1<<20 + 8<<10}

var bufPools [len(bufSizes)]sync.Pool

// bufCost is what a buffer with room for n bytes takes.
func bufCost(n int) int {
	for _, size := range bufSizes {
		if n <= size {
			return size
		}
	}
	return n
}

// getBuf gives an empty buffer with room for at least n bytes.
func getBuf(n int) *buf {
	for i, size := range bufSizes {
		if n <= size {
			if b, ok := bufPools[i].Get().(*buf); ok {
				return b
			}
			return &buf{b: make([]byte, 0, size)}
		}
	}
	return &buf{b: make([]byte, 0, n)}
}

// free gives the buffer back; a nil one is fine.
func (b *buf) free() {
	if b == nil {
		return
	}
	for i, size := range bufSizes {
		if cap(b.b) == size {
			b.b = b.b[:0]
			bufPools[i].Put(b)
			return
		}
	}
}

// grow gives a buffer with the same bytes and room for n more, and frees b if
// that is another one.
func (b *buf) grow(n int) *buf {
	if cap(b.b)-len(b.b) >= n {
		return b
	}
	nb := getBuf(max(len(b.b)+n, min(4*cap(b.b), bufSizes[2])))
	nb.b = append(nb.b, b.b...)
	b.free()
	return nb
}
