package wire

import "github.com/hugelgupf/p9/p9"

// Stat is a file's description as stat(5) has it, with what 9P2000.u adds.
type Stat struct {
	Type           uint16
	Dev            uint32
	QID            p9.QID
	Mode           uint32
	Atime, Mtime   uint32
	Length         uint64
	Name           string
	UID, GID, MUID string

	// 9P2000.u's; in 9P2000 the numbers are DontTouch.
	Extension         string // a link's target, or a device
	NUID, NGID, NMUID uint32
}

// Bits of a mode beside the permissions.
const (
	DMDIR       = 0x80000000
	DMAPPEND    = 0x40000000
	DMEXCL      = 0x20000000
	DMTMP       = 0x04000000
	DMSYMLINK   = 0x02000000 // this and the rest are 9P2000.u's
	DMLINK      = 0x01000000
	DMDEVICE    = 0x00800000
	DMNAMEDPIPE = 0x00200000
	DMSOCKET    = 0x00100000
	DMSETUID    = 0x00080000
	DMSETGID    = 0x00040000
	DMSETVTX    = 0x00010000
)

// DontTouch is what a wstat says of a number that stays as it is.
const DontTouch = ^uint32(0)

// Untouched is the stat of a wstat that changes nothing.
var Untouched = Stat{
	Type: 1<<16 - 1, Dev: DontTouch, QID: p9.QID{Type: 0xff, Version: DontTouch, Path: 1<<64 - 1},
	Mode: DontTouch, Atime: DontTouch, Mtime: DontTouch, Length: 1<<64 - 1,
	NUID: DontTouch, NGID: DontTouch, NMUID: DontTouch,
}

// AppendStat writes a record of a directory that is read.
func (c *Codec) AppendStat(b []byte, st *Stat) []byte {
	c.b, c.reading = b, false
	c.stat(st)
	b, c.b = c.b, nil
	return b
}

// stat is a record, with its own length before it.
func (c *Codec) stat(st *Stat) {
	c.sized(func() {
		c.u16(&st.Type)
		u32(c, &st.Dev)
		c.qid(&st.QID)
		u32(c, &st.Mode, &st.Atime, &st.Mtime)
		u64(c, &st.Length)
		c.str(&st.Name, &st.UID, &st.GID, &st.MUID)
		switch {
		case c.Dialect == Unix:
			c.str(&st.Extension)
			u32(c, &st.NUID, &st.NGID, &st.NMUID)
		case c.reading:
			st.NUID, st.NGID, st.NMUID = DontTouch, DontTouch, DontTouch
		}
	})
}

// stat is a record with yet another length before it (stat(5)).
func stat(c *Codec, m *Msg) {
	st := made(c, &m.Stat)
	c.sized(func() { c.stat(st) })
}
