package wire

import (
	"bytes"
	"encoding/binary"
	"errors"

	"github.com/hugelgupf/p9/p9"
)

// ErrMalformed is the error of a message that is shorter or longer than its
// fields, or has a NUL in a string.
var ErrMalformed = errors.New("malformed message")

// ErrUnknown is the error of a message that the dialect does not have.
var ErrUnknown = errors.New("unknown message")

// Codec writes and reads the messages of a dialect. It is for one goroutine at
// a time.
type Codec struct {
	Dialect Dialect

	// b is what is still to be read, or what was written. What is missing reads as zero
	// and sets bad, so that descriptions need no checks of their own.
	b       []byte
	reading bool
	bad     bool
	known   map[string]string // see name

	mask     p9.AttrMask // the last one, and its bits if there was one
	maskBits uint64
}

// Append writes m behind b as a message of type t: what a request was read into is
// thus written as its reply, or as an error.
func (c *Codec) Append(b []byte, t Type, m *Msg) []byte {
	start := len(b)
	c.b, c.reading = append(b, make([]byte, HeaderSize)...), false
	if desc := c.Dialect.message(t); desc.fields != nil {
		desc.fields(c, m)
	}
	PutHeader(c.b[start:], t, m.Tag)
	b, c.b = c.b, nil
	return b
}

// Decode reads a message, header and all, into m. Data in m is the frame's own,
// and everything else is m's: what m had before is gone.
func (c *Codec) Decode(frame []byte, m *Msg) error {
	t, tag := Header(frame)
	names, qids := m.Names[:0], m.QIDs[:0]
	*m = Msg{}
	m.Type, m.Tag, m.UID, m.GID, m.Names, m.QIDs = t, tag, NoUser, NoUser, names, qids
	desc := c.Dialect.message(t)
	if desc.in&c.Dialect == 0 {
		return ErrUnknown
	}
	c.b, c.reading, c.bad = frame[HeaderSize:], true, false
	if desc.fields != nil {
		desc.fields(c, m)
	}
	if c.bad || len(c.b) > 0 {
		return ErrMalformed
	}
	return nil
}

// Sizes of what surrounds data.
const (
	HeaderSize = 7              // length, type and tag
	DataHeader = HeaderSize + 4 // of an Rread and Rreaddir: what comes before the data
)

// Header gives the type and tag of a frame, which has at least HeaderSize bytes.
func Header(frame []byte) (Type, uint16) {
	return Type(frame[4]), binary.LittleEndian.Uint16(frame[5:])
}

// PutHeader makes a frame of bytes whose first HeaderSize are free.
func PutHeader(frame []byte, t Type, tag uint16) {
	binary.LittleEndian.PutUint32(frame, uint32(len(frame)))
	frame[4], frame[5], frame[6] = byte(t), byte(tag), byte(tag>>8)
}

// PutDataHeader makes an Rread or Rreaddir of bytes whose first DataHeader are free
// and whose others are the data.
func PutDataHeader(frame []byte, t Type, tag uint16) {
	PutHeader(frame, t, tag)
	binary.LittleEndian.PutUint32(frame[HeaderSize:], uint32(len(frame)-DataHeader))
}

// take gives the next n bytes of what is read.
func (c *Codec) take(n int) []byte {
	if uint(n) > uint(len(c.b)) {
		c.bad, c.b = true, nil
		return nil
	}
	p := c.b[:n:n]
	c.b = c.b[n:]
	return p
}

// u8 is a number of one byte, which its field has more room for.
func (c *Codec) u8(p *uint32) {
	if !c.reading {
		c.b = append(c.b, byte(*p))
	} else if b := c.take(1); b != nil {
		*p = uint32(b[0])
	}
}

func (c *Codec) u16(p *uint16) {
	if !c.reading {
		c.b = binary.LittleEndian.AppendUint16(c.b, *p)
	} else if b := c.take(2); b != nil {
		*p = binary.LittleEndian.Uint16(b)
	}
}

func u32[T ~uint32](c *Codec, ps ...*T) {
	if c.reading {
		if b := c.take(4 * len(ps)); b != nil {
			for i, p := range ps {
				*p = T(binary.LittleEndian.Uint32(b[4*i:]))
			}
		}
		return
	}
	b := c.b
	for _, p := range ps {
		b = binary.LittleEndian.AppendUint32(b, uint32(*p))
	}
	c.b = b
}

func u64[T ~uint64](c *Codec, ps ...*T) {
	if c.reading {
		if b := c.take(8 * len(ps)); b != nil {
			for i, p := range ps {
				*p = T(binary.LittleEndian.Uint64(b[8*i:]))
			}
		}
		return
	}
	b := c.b
	for _, p := range ps {
		b = binary.LittleEndian.AppendUint64(b, uint64(*p))
	}
	c.b = b
}

// flags is a number of size bytes, each bit of which is a bool of the field. It gives the
// number, without bits that mean nothing.
func (c *Codec) flags(size int, bits ...*bool) (v uint64) {
	if !c.reading {
		for i, bit := range bits {
			if *bit {
				v |= 1 << i
			}
		}
	}
	if size == 4 {
		w := uint32(v)
		u32(c, &w)
		v = uint64(w)
	} else {
		u64(c, &v)
	}
	if c.reading {
		for i, bit := range bits {
			*bit = v>>i&1 != 0
		}
	}
	return v & (1<<len(bits) - 1)
}

// str is strings. One that is longer than its length can say is cut, and a NUL is
// illegal in any string of 9P (intro(5)).
func (c *Codec) str(ps ...*string) {
	for _, p := range ps {
		if !c.reading {
			c.putString(*p)
		} else {
			*p = string(c.bytes())
		}
	}
}

func (c *Codec) putString(s string) {
	s = s[:min(len(s), 1<<16-1)]
	c.b = binary.LittleEndian.AppendUint16(c.b, uint16(len(s)))
	c.b = append(c.b, s...)
}

// bytes reads a string's bytes.
func (c *Codec) bytes() []byte {
	var n uint16
	c.u16(&n)
	b := c.take(int(n))
	if bytes.IndexByte(b, 0) >= 0 {
		c.bad = true
	}
	return b
}

// knownNames is how many names a Codec remembers, of up to maxKnown bytes.
const (
	knownNames = 128
	maxKnown   = 64
)

// name makes a string of a name's bytes, the same one as last time if it is one that
// is used often.
func (c *Codec) name(b []byte) string {
	if s, ok := c.known[string(b)]; ok {
		return s
	}
	s := string(b)
	if len(s) <= maxKnown {
		if c.known == nil || len(c.known) >= knownNames {
			c.known = make(map[string]string)
		}
		c.known[s] = s
	}
	return s
}

// names is a count of names and the names.
func (c *Codec) names(p *[]string) {
	n := uint16(len(*p))
	c.u16(&n)
	for i := range n {
		if !c.reading {
			c.putString((*p)[i])
			continue
		}
		b := c.bytes()
		if c.bad {
			return
		}
		if len(*p) <= MaxNames {
			*p = append(*p, c.name(b))
		}
	}
}

func (c *Codec) qid(q *p9.QID) {
	t := uint32(q.Type)
	c.u8(&t)
	q.Type = p9.QIDType(t)
	u32(c, &q.Version)
	u64(c, &q.Path)
}

// qids is a count of QIDs and the QIDs.
func (c *Codec) qids(p *[]p9.QID) {
	n := uint16(len(*p))
	c.u16(&n)
	for i := range n {
		if c.reading {
			if c.bad {
				return
			}
			*p = append(*p, p9.QID{})
		}
		c.qid(&(*p)[i])
	}
}

// data is a count of bytes and the bytes.
func (c *Codec) data(p *[]byte) {
	n := uint32(len(*p))
	u32(c, &n)
	if !c.reading {
		c.b = append(c.b, *p...)
	} else {
		*p = c.take(int(n))
	}
}

// sized is something with its length in two bytes before it. What is read ends
// there.
func (c *Codec) sized(fields func()) {
	if !c.reading {
		start := len(c.b)
		c.b = append(c.b, 0, 0)
		fields()
		binary.LittleEndian.PutUint16(c.b[start:], uint16(len(c.b)-start-2))
		return
	}
	var n uint16
	c.u16(&n)
	whole := c.b
	if c.b = c.take(int(n)); c.bad {
		return
	}
	fields()
	if len(c.b) > 0 {
		c.bad = true
	}
	c.b = whole[min(int(n), len(whole)):]
}
