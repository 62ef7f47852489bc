package wire

import "github.com/hugelgupf/p9/p9"

// message describes a request and its reply: which dialects have them, and their
// fields in order.
type message struct {
	name    string // the request's
	in      Dialect
	request func(c *Codec, m *Msg)
	reply   func(c *Codec, m *Msg)
}

// message finds the description of a request or its reply.
func (d Dialect) message(t Type) *message {
	if t >= Twalkgetattr && d.Is(Linux) {
		return &google[t/2]
	}
	return &messages[t/2]
}

func (d Dialect) fields(t Type) func(*Codec, *Msg) {
	if t&1 != 0 {
		return d.message(t).reply
	}
	return d.message(t).request
}

// messages has, at half its request's number, every message. Those that no reply goes with,
// or no fields, have none.
var messages = [128]message{
	Rlerror / 2: {"Tlerror", Linux, nil, func(c *Codec, m *Msg) { u32(c, &m.Errno) }},
	Rerror / 2: {"Terror", Legacy, nil, func(c *Codec, m *Msg) {
		c.str(&m.Name)
		if c.Dialect == Unix {
			u32(c, &m.Errno)
		}
	}},

	Tversion / 2: {"Tversion", Any, version, version},
	Tauth / 2: {"Tauth", Any, func(c *Codec, m *Msg) {
		u32(c, &m.Fid2)
		user(c, m)
	}, qid},
	Tattach / 2: {"Tattach", Any, func(c *Codec, m *Msg) {
		u32(c, &m.Fid, &m.Fid2)
		user(c, m)
	}, qid},
	Tflush / 2: {"Tflush", Any, func(c *Codec, m *Msg) {
		tag := uint16(m.Count)
		c.u16(&tag)
		m.Count = uint32(tag)
	}, nil},
	Twalk / 2: {"Twalk", Any, func(c *Codec, m *Msg) {
		u32(c, &m.Fid, &m.Fid2)
		c.names(&m.Names)
	}, func(c *Codec, m *Msg) { c.qids(&m.QIDs) }},
	Tread / 2: {"Tread", Any, read, data},
	Twrite / 2: {"Twrite", Any, func(c *Codec, m *Msg) {
		u32(c, &m.Fid)
		u64(c, &m.Offset)
		c.data(&m.Data)
	}, func(c *Codec, m *Msg) { u32(c, &m.Count) }},
	Tclunk / 2:  {"Tclunk", Any, fid, nil},
	Tremove / 2: {"Tremove", Any, fid, nil},

	// 9P2000 and 9P2000.u
	Topen / 2: {"Topen", Legacy, func(c *Codec, m *Msg) {
		u32(c, &m.Fid)
		c.u8(&m.Mode)
	}, opened},
	Tcreate / 2: {"Tcreate", Legacy, func(c *Codec, m *Msg) {
		u32(c, &m.Fid)
		c.str(&m.Name)
		u32(c, &m.Mode)
		c.u8(&m.Flags)
		if c.Dialect == Unix {
			c.str(&m.Name2)
		}
	}, opened},
	Tstat / 2: {"Tstat", Legacy, fid, stat},
	Twstat / 2: {"Twstat", Legacy, func(c *Codec, m *Msg) {
		u32(c, &m.Fid)
		stat(c, m)
	}, nil},

	// 9P2000.L
	Tstatfs / 2: {"Tstatfs", Linux, fid, func(c *Codec, m *Msg) {
		st := made(c, &m.FSStat)
		u32(c, &st.Type, &st.BlockSize)
		u64(c, &st.Blocks, &st.BlocksFree, &st.BlocksAvailable, &st.Files, &st.FilesFree, &st.FSID)
		u32(c, &st.NameLength)
	}},
	Tlopen / 2:    {"Tlopen", Linux, func(c *Codec, m *Msg) { u32(c, &m.Fid, &m.Flags) }, opened},
	Tlcreate / 2:  {"Tlcreate", Linux, create, opened},
	Tsymlink / 2:  {"Tsymlink", Linux, symlink, qid},
	Tmknod / 2:    {"Tmknod", Linux, mknod, qid},
	Tmkdir / 2:    {"Tmkdir", Linux, mkdir, qid},
	Trename / 2:   {"Trename", Linux, fids, nil},
	Treadlink / 2: {"Treadlink", Linux, fid, func(c *Codec, m *Msg) { c.str(&m.Name2) }},
	Tgetattr / 2: {"Tgetattr", Linux, func(c *Codec, m *Msg) {
		u32(c, &m.Fid)
		mask(c, m)
	}, func(c *Codec, m *Msg) {
		mask(c, m)
		c.qid(&m.QID)
		attr(c, m)
	}},
	Tsetattr / 2: {"Tsetattr", Linux, func(c *Codec, m *Msg) {
		u32(c, &m.Fid)
		s, a := &m.SetMask, &m.SetAttr
		flags(c, u32[uint32], &s.Permissions, &s.UID, &s.GID, &s.Size, &s.ATime, &s.MTime, &s.CTime,
			&s.ATimeNotSystemTime, &s.MTimeNotSystemTime)
		u32(c, &a.Permissions)
		u32(c, &a.UID)
		u32(c, &a.GID)
		u64(c, &a.Size, &a.ATimeSeconds, &a.ATimeNanoSeconds, &a.MTimeSeconds, &a.MTimeNanoSeconds)
	}, nil},
	Txattrwalk / 2: {"Txattrwalk", Linux, fids, func(c *Codec, m *Msg) { u64(c, &m.Length) }},
	Txattrcreate / 2: {"Txattrcreate", Linux, func(c *Codec, m *Msg) {
		u32(c, &m.Fid)
		c.str(&m.Name)
		u64(c, &m.Length)
		u32(c, &m.Flags)
	}, nil},
	Treaddir / 2: {"Treaddir", Linux, read, data},
	Tfsync / 2: {"Tfsync", Linux, func(c *Codec, m *Msg) {
		u32(c, &m.Fid)
		if !c.reading || len(c.b) > 0 { // datasync, which Linux sends and the document lacks
			u32(c, &m.Flags)
		}
	}, nil},
	Tlock / 2: {"Tlock", Linux, func(c *Codec, m *Msg) {
		u32(c, &m.Fid)
		c.u8(&m.Mode)
		u32(c, &m.Flags)
		lock(c, m)
	}, func(c *Codec, m *Msg) { c.u8(&m.Mode) }},
	Tgetlock / 2: {"Tgetlock", Linux, func(c *Codec, m *Msg) {
		u32(c, &m.Fid)
		c.u8(&m.Mode)
		lock(c, m)
	}, func(c *Codec, m *Msg) {
		c.u8(&m.Mode)
		lock(c, m)
	}},
	Tlink / 2: {"Tlink", Linux, fids, nil},
	Trenameat / 2: {"Trenameat", Linux, func(c *Codec, m *Msg) {
		u32(c, &m.Fid)
		c.str(&m.Name)
		u32(c, &m.Fid2)
		c.str(&m.Name2)
	}, nil},
	Tunlinkat / 2: {"Tunlinkat", Linux, func(c *Codec, m *Msg) {
		u32(c, &m.Fid)
		c.str(&m.Name)
		u32(c, &m.Flags)
	}, nil},
}

// google has what p9's client adds to 9P2000.L when it may.
var google = [128]message{
	Twalkgetattr / 2: {"Twalkgetattr", Google2, messages[Twalk/2].request, func(c *Codec, m *Msg) {
		mask(c, m)
		attr(c, m)
		c.qids(&m.QIDs)
	}},
	Tucreate / 2:  {"Tucreate", Google3, by(create), opened},
	Tumkdir / 2:   {"Tumkdir", Google3, by(mkdir), qid},
	Tumknod / 2:   {"Tumknod", Google3, by(mknod), qid},
	Tusymlink / 2: {"Tusymlink", Google3, by(symlink), qid},
}

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

func mask(c *Codec, m *Msg) {
	a := &m.Mask
	flags(c, u64[uint64], &a.Mode, &a.NLink, &a.UID, &a.GID, &a.RDev, &a.ATime, &a.MTime, &a.CTime,
		&a.INo, &a.Size, &a.Blocks, &a.BTime, &a.Gen, &a.DataVersion)
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
