package wiretest

import (
	"bytes"
	"encoding/binary"
)

// dec takes a message's body apart. What is missing reads as zero and marks
// the message as bad, so that decoders need no checks of their own.
type dec struct {
	b   []byte
	bad bool
}

func (d *dec) take(n int) []byte {
	if n > len(d.b) {
		d.bad, d.b = true, nil
		return nil
	}
	p := d.b[:n:n]
	d.b = d.b[n:]
	return p
}

func (d *dec) u8() uint8 {
	if p := d.take(1); p != nil {
		return p[0]
	}
	return 0
}

func (d *dec) u16() uint16 {
	if p := d.take(2); p != nil {
		return binary.LittleEndian.Uint16(p)
	}
	return 0
}

func (d *dec) u32() uint32 {
	if p := d.take(4); p != nil {
		return binary.LittleEndian.Uint32(p)
	}
	return 0
}

func (d *dec) u64() uint64 {
	if p := d.take(8); p != nil {
		return binary.LittleEndian.Uint64(p)
	}
	return 0
}

// str gives a string's bytes, which are the message's. A NUL is illegal in any
// string of 9P (intro(5)).
func (d *dec) str() []byte {
	p := d.take(int(d.u16()))
	if bytes.IndexByte(p, 0) >= 0 {
		d.bad = true
	}
	return p
}

// ok reports whether the body was all there and nothing is left of it.
func (d *dec) ok() bool { return !d.bad && len(d.b) == 0 }

// enc puts a message together.
type enc struct{ b []byte }

func (e *enc) u8(v uint8)   { e.b = append(e.b, v) }
func (e *enc) u16(v uint16) { e.b = binary.LittleEndian.AppendUint16(e.b, v) }
func (e *enc) u32(v uint32) { e.b = binary.LittleEndian.AppendUint32(e.b, v) }
func (e *enc) u64(v uint64) { e.b = binary.LittleEndian.AppendUint64(e.b, v) }

// str writes a string, cut to what its length can say.
func (e *enc) str(s string) {
	s = s[:min(len(s), 1<<16-1)]
	e.u16(uint16(len(s)))
	e.b = append(e.b, s...)
}

// begin writes a header whose length end fills in.
func (e *enc) begin(typ uint8, tag uint16) (start int) {
	start = len(e.b)
	e.b = append(e.b, 0, 0, 0, 0, uint8(typ), uint8(tag), uint8(tag>>8))
	return start
}

func (e *enc) end(start int) {
	binary.LittleEndian.PutUint32(e.b[start:], uint32(len(e.b)-start))
}
