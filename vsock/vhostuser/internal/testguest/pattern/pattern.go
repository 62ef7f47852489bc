// Package pattern makes streams of bytes that both ends of a test can know.
package pattern

import "encoding/binary"

// Reader is an endless stream, fast to make and hard to get right by chance.
type Reader struct {
	state uint64
	word  [8]byte
	left  int
}

// New returns the stream of a seed.
func New(seed uint64) *Reader { return &Reader{state: seed*0x9e3779b97f4a7c15 | 1} }

// Read always fills p.
func (r *Reader) Read(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if r.left == 0 && len(p) >= 8 {
			binary.LittleEndian.PutUint64(p, r.next())
			p = p[8:]
			continue
		}
		if r.left == 0 {
			binary.LittleEndian.PutUint64(r.word[:], r.next())
			r.left = 8
		}
		m := copy(p, r.word[8-r.left:])
		r.left -= m
		p = p[m:]
	}
	return n, nil
}

// next is a step of the xorshift generator.
func (r *Reader) next() uint64 {
	r.state ^= r.state << 13
	r.state ^= r.state >> 7
	r.state ^= r.state << 17
	return r.state
}
