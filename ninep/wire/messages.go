package wire

import (
	"encoding/binary"

	"github.com/hugelgupf/p9/p9"
)

// messages describes every request and its reply: which dialects have them, and
// their fields in order.
var messages = []struct {
	typ            Type
	name           string
	in             Dialect
	request, reply func(c *Codec, m *Msg)
}{
	{Rlerror, "Rlerror", Linux, nil, func(c *Codec, m *Msg) { u32(c, &m.Errno) }},
	{Rerror, "Rerror", Legacy, nil, func(c *Codec, m *Msg) {
		c.str(&m.Name)
		if c.Dialect == Unix {
			u32(c, &m.Errno)
		}
	}},

	{Tversion, "Tversion", Any, version, version},
	{Tauth, "Tauth", Any, func(c *Codec, m *Msg) {
		u32(c, &m.Fid2)
		user(c, m)
	}, qid},
	{Tattach, "Tattach", Any, func(c *Codec, m *Msg) {
		u32(c, &m.Fid, &m.Fid2)
		user(c, m)
	}, qid},
	{Tflush, "Tflush", Any, func(c *Codec, m *Msg) {
		tag := uint16(m.Count)
		c.u16(&tag)
		m.Count = uint32(tag)
	}, nil},
	{Twalk, "Twalk", Any, walk, func(c *Codec, m *Msg) { c.qids(&m.QIDs) }},
	{Tread, "Tread", Any, read, data},
	{Twrite, "Twrite", Any, func(c *Codec, m *Msg) {
		u32(c, &m.Fid)
		u64(c, &m.Offset)
		c.data(&m.Data)
	}, func(c *Codec, m *Msg) { u32(c, &m.Count) }},
	{Tclunk, "Tclunk", Any, fid, nil},
	{Tremove, "Tremove", Any, fid, nil},

	// 9P2000 and 9P2000.u
	{Topen, "Topen", Legacy, func(c *Codec, m *Msg) {
		u32(c, &m.Fid)
		c.u8(&m.Mode)
	}, opened},
	{Tcreate, "Tcreate", Legacy, func(c *Codec, m *Msg) {
		u32(c, &m.Fid)
		c.str(&m.Name)
		u32(c, &m.Mode)
		c.u8(&m.Flags)
		if c.Dialect == Unix {
			c.str(&m.Name2)
		}
	}, opened},
	{Tstat, "Tstat", Legacy, fid, stat},
	{Twstat, "Twstat", Legacy, func(c *Codec, m *Msg) {
		u32(c, &m.Fid)
		stat(c, m)
	}, nil},

	// 9P2000.L
	{Tstatfs, "Tstatfs", Linux, fid, func(c *Codec, m *Msg) {
		st := made(c, &m.FSStat)
		u32(c, &st.Type, &st.BlockSize)
		u64(c, &st.Blocks, &st.BlocksFree, &st.BlocksAvailable, &st.Files, &st.FilesFree, &st.FSID)
		u32(c, &st.NameLength)
	}},
	{Tlopen, "Tlopen", Linux, func(c *Codec, m *Msg) { u32(c, &m.Fid, &m.Flags) }, opened},
	{Tlcreate, "Tlcreate", Linux, create, opened},
	{Tsymlink, "Tsymlink", Linux, symlink, qid},
	{Tmknod, "Tmknod", Linux, mknod, qid},
	{Tmkdir, "Tmkdir", Linux, mkdir, qid},
	{Trename, "Trename", Linux, fids, nil},
	{Treadlink, "Treadlink", Linux, fid, func(c *Codec, m *Msg) { c.str(&m.Name2) }},
	{Tgetattr, "Tgetattr", Linux, func(c *Codec, m *Msg) {
		u32(c, &m.Fid)
		mask(c, m)
	}, func(c *Codec, m *Msg) {
		mask(c, m)
		c.qid(&m.QID)
		attr(c, m)
	}},
	{Tsetattr, "Tsetattr", Linux, func(c *Codec, m *Msg) {
		u32(c, &m.Fid)
		s, a := &m.SetMask, made(c, &m.SetAttr)
		c.flags(4, &s.Permissions, &s.UID, &s.GID, &s.Size, &s.ATime, &s.MTime, &s.CTime,
			&s.ATimeNotSystemTime, &s.MTimeNotSystemTime)
		u32(c, &a.Permissions)
		u32(c, &a.UID)
		u32(c, &a.GID)
		u64(c, &a.Size, &a.ATimeSeconds, &a.ATimeNanoSeconds, &a.MTimeSeconds, &a.MTimeNanoSeconds)
	}, nil},
	{Txattrwalk, "Txattrwalk", Linux, fids, func(c *Codec, m *Msg) { u64(c, &m.Length) }},
	{Txattrcreate, "Txattrcreate", Linux, func(c *Codec, m *Msg) {
		u32(c, &m.Fid)
		c.str(&m.Name)
		u64(c, &m.Length)
		u32(c, &m.Flags)
	}, nil},
	{Treaddir, "Treaddir", Linux, read, data},
	{Tfsync, "Tfsync", Linux, func(c *Codec, m *Msg) {
		u32(c, &m.Fid)
		if !c.reading || len(c.b) > 0 { // datasync, which Linux sends and the document lacks
			u32(c, &m.Flags)
		}
	}, nil},
	{Tlock, "Tlock", Linux, func(c *Codec, m *Msg) {
		u32(c, &m.Fid)
		c.u8(&m.Mode)
		u32(c, &m.Flags)
		lock(c, m)
	}, func(c *Codec, m *Msg) { c.u8(&m.Mode) }},
	{Tgetlock, "Tgetlock", Linux, func(c *Codec, m *Msg) {
		u32(c, &m.Fid)
		c.u8(&m.Mode)
		lock(c, m)
	}, func(c *Codec, m *Msg) {
		c.u8(&m.Mode)
		lock(c, m)
	}},
	{Tlink, "Tlink", Linux, fids, nil},
	{Trenameat, "Trenameat", Linux, func(c *Codec, m *Msg) {
		u32(c, &m.Fid)
		c.str(&m.Name)
		u32(c, &m.Fid2)
		c.str(&m.Name2)
	}, nil},
	{Tunlinkat, "Tunlinkat", Linux, func(c *Codec, m *Msg) {
		u32(c, &m.Fid)
		c.str(&m.Name)
		u32(c, &m.Flags)
	}, nil},

	// what p9's client adds to 9P2000.L when it may
	{Twalkgetattr, "Twalkgetattr", Google2, walk, func(c *Codec, m *Msg) {
		mask(c, m)
		attr(c, m)
		c.qids(&m.QIDs)
	}},
	{Tucreate, "Tucreate", Google3, by(create), opened},
	{Tumkdir, "Tumkdir", Google3, by(mkdir), qid},
	{Tumknod, "Tumknod", Google3, by(mknod), qid},
	{Tusymlink, "Tusymlink", Google3, by(symlink), qid},
}

// message is a request or a reply.
type message struct {
	name   string
	in     Dialect
	fields func(c *Codec, m *Msg) // nil if there are none
}

// tables have the messages by type: of the dialects that Linux is not one of, and of
// those that it is. One type can be another message in the two.
var tables = func() (tables [2][256]message) {
	for _, m := range messages {
		for i, all := range []Dialect{Legacy, Linux | Google2 | Google3} {
			if !m.in.Is(all) {
				continue
			}
			if m.typ&1 == 0 {
				tables[i][m.typ] = message{m.name, m.in & all, m.request}
			}
			tables[i][m.typ|1] = message{"R" + m.name[1:], m.in & all, m.reply}
		}
	}
	return tables
}()

func (d Dialect) message(t Type) *message { return &tables[(d&Linux)/Linux][t] }

// by is a request with the user it is made for.
func by(request func(*Codec, *Msg)) func(*Codec, *Msg) {
	return func(c *Codec, m *Msg) {
		request(c, m)
		u32(c, &m.UID)
	}
}

func version(c *Codec, m *Msg) {
	u32(c, &m.Count)
	c.str(&m.Name)
}

// user is who attaches to what: 9P2000 knows users by name alone.
func user(c *Codec, m *Msg) {
	c.str(&m.Name, &m.Name2)
	if c.Dialect != Plan9 {
		u32(c, &m.UID)
	}
}

func walk(c *Codec, m *Msg) {
	u32(c, &m.Fid, &m.Fid2)
	c.names(&m.Names)
}

func fid(c *Codec, m *Msg)  { u32(c, &m.Fid) }
func qid(c *Codec, m *Msg)  { c.qid(&m.QID) }
func data(c *Codec, m *Msg) { c.data(&m.Data) }

func fids(c *Codec, m *Msg) {
	u32(c, &m.Fid, &m.Fid2)
	c.str(&m.Name)
}

func read(c *Codec, m *Msg) {
	u32(c, &m.Fid)
	u64(c, &m.Offset)
	u32(c, &m.Count)
}

func opened(c *Codec, m *Msg) {
	c.qid(&m.QID)
	u32(c, &m.Count)
}

func create(c *Codec, m *Msg) {
	u32(c, &m.Fid)
	c.str(&m.Name)
	u32(c, &m.Flags, &m.Mode, &m.GID)
}

func mkdir(c *Codec, m *Msg) {
	u32(c, &m.Fid)
	c.str(&m.Name)
	u32(c, &m.Mode, &m.GID)
}

func mknod(c *Codec, m *Msg) {
	u32(c, &m.Fid)
	c.str(&m.Name)
	u32(c, &m.Mode, &m.Major, &m.Minor, &m.GID)
}

func symlink(c *Codec, m *Msg) {
	u32(c, &m.Fid)
	c.str(&m.Name, &m.Name2)
	u32(c, &m.GID)
}

func lock(c *Codec, m *Msg) {
	u64(c, &m.Offset, &m.Length)
	u32(c, &m.Count)
	c.str(&m.Name)
}

// mask is of the attributes that are asked for or given: mostly the same ones as last time.
func mask(c *Codec, m *Msg) {
	a := &m.Mask
	switch {
	case c.maskBits == 0:
	case !c.reading && *a == c.mask:
		c.b = binary.LittleEndian.AppendUint64(c.b, c.maskBits)
		return
	case c.reading && len(c.b) >= 8 && binary.LittleEndian.Uint64(c.b) == c.maskBits:
		*a, c.b = c.mask, c.b[8:]
		return
	}
	c.maskBits = c.flags(8, &a.Mode, &a.NLink, &a.UID, &a.GID, &a.RDev, &a.ATime, &a.MTime, &a.CTime,
		&a.INo, &a.Size, &a.Blocks, &a.BTime, &a.Gen, &a.DataVersion)
	c.mask = *a
}

func attr(c *Codec, m *Msg) {
	a := made(c, &m.Attr)
	u32(c, &a.Mode)
	u32(c, &a.UID)
	u32(c, &a.GID)
	u64(c, &a.NLink)
	u64(c, &a.RDev)
	u64(c, &a.Size, &a.BlockSize, &a.Blocks, &a.ATimeSeconds, &a.ATimeNanoSeconds, &a.MTimeSeconds, &a.MTimeNanoSeconds,
		&a.CTimeSeconds, &a.CTimeNanoSeconds, &a.BTimeSeconds, &a.BTimeNanoSeconds, &a.Gen, &a.DataVersion)
}

// made makes the large part of a message that is read.
func made[T any](c *Codec, p **T) *T {
	if c.reading {
		*p = new(T)
	}
	return *p
}

// AppendDirent writes an entry of an Rreaddir.
func (c *Codec) AppendDirent(b []byte, d *p9.Dirent) []byte {
	c.b, c.reading = b, false
	c.dirent(d)
	b, c.b = c.b, nil
	return b
}

// Dirents reads the data of an Rreaddir.
func (c *Codec) Dirents(data []byte) (list []p9.Dirent, err error) {
	for c.b, c.reading, c.bad = data, true, false; len(c.b) > 0; {
		var d p9.Dirent
		c.dirent(&d)
		list = append(list, d)
	}
	if c.bad {
		return nil, ErrMalformed
	}
	return list, nil
}

// DirentSize is how long an entry of an Rreaddir is.
func DirentSize(d *p9.Dirent) int { return 13 + 8 + 1 + 2 + len(d.Name) }

func (c *Codec) dirent(d *p9.Dirent) {
	t := uint32(d.Type)
	c.qid(&d.QID)
	u64(c, &d.Offset)
	c.u8(&t)
	c.str(&d.Name)
	d.Type = p9.QIDType(t)
}
