package ninep

import (
	"github.com/hugelgupf/p9/p9"
)

// The messages of 9P2000.L that the others do not have.
func init() {
	L := func(typ msgType, m message) {
		m.in = dialectL
		register(typ, m)
	}
	L(msgTstatfs, message{name: "Tstatfs", run: runStatFS, decode: decodeFid,
		encode: func(r *request, e *enc) {
			st := &r.fsstat
			e.u32(st.Type)
			e.u32(st.BlockSize)
			e.u64(st.Blocks)
			e.u64(st.BlocksFree)
			e.u64(st.BlocksAvailable)
			e.u64(st.Files)
			e.u64(st.FilesFree)
			e.u64(st.FSID)
			e.u32(st.NameLength)
		}})
	L(msgTlopen, message{name: "Tlopen", run: runOpen, encode: encodeOpen,
		decode: func(r *request, d *dec) { r.fid, r.flags = d.u32(), d.u32() }})
	L(msgTlcreate, message{name: "Tlcreate", run: runCreate, encode: encodeOpen, decode: decodeCreate})
	L(msgTsymlink, message{name: "Tsymlink", run: runSymlink, encode: encodeQID, decode: decodeSymlink})
	L(msgTmknod, message{name: "Tmknod", run: runMknod, encode: encodeQID, decode: decodeMknod})
	L(msgTmkdir, message{name: "Tmkdir", run: runMkdir, encode: encodeQID, decode: decodeMkdir})
	L(msgTrename, message{name: "Trename", run: runRename,
		decode: func(r *request, d *dec) { r.fid, r.fid2, r.name = d.u32(), d.u32(), string(d.str()) }})
	L(msgTreadlink, message{name: "Treadlink", run: runReadlink, decode: decodeFid,
		encode: func(r *request, e *enc) { e.str(r.name) }})
	L(msgTgetattr, message{name: "Tgetattr", run: runGetAttr, encode: encodeAttr,
		decode: func(r *request, d *dec) { r.fid, r.attrMask = d.u32(), attrMask(d.u64()) }})
	L(msgTsetattr, message{name: "Tsetattr", run: runSetAttr, decode: decodeSetAttr})
	L(msgTxattrwalk, message{name: "Txattrwalk", run: runXattrWalk,
		decode: func(r *request, d *dec) { r.fid, r.fid2, r.name = d.u32(), d.u32(), string(d.str()) },
		encode: func(r *request, e *enc) { e.u64(r.length) }})
	L(msgTxattrcreate, message{name: "Txattrcreate", run: runXattrCreate,
		decode: func(r *request, d *dec) {
			r.fid, r.name, r.length, r.flags = d.u32(), string(d.str()), d.u64(), d.u32()
		}})
	L(msgTreaddir, message{name: "Treaddir", run: runReaddir,
		decode: func(r *request, d *dec) { r.fid, r.offset, r.count = d.u32(), d.u64(), d.u32() }})
	L(msgTfsync, message{name: "Tfsync", run: runFsync,
		decode: func(r *request, d *dec) {
			r.fid = d.u32()
			if len(d.b) > 0 {
				d.u32() // datasync, which Linux sends and the document lacks
			}
		}})
	L(msgTlock, message{name: "Tlock", run: runLock,
		decode: func(r *request, d *dec) {
			r.fid, r.mode, r.flags = d.u32(), uint32(d.u8()), d.u32()
			r.offset, r.length, r.count = d.u64(), d.u64(), d.u32()
			r.name = string(d.str())
		},
		encode: func(r *request, e *enc) { e.u8(r.status) }})
	L(msgTgetlock, message{name: "Tgetlock", run: runGetLock,
		decode: func(r *request, d *dec) {
			r.fid, r.mode = d.u32(), uint32(d.u8())
			r.offset, r.length, r.count = d.u64(), d.u64(), d.u32()
			r.name = string(d.str())
		},
		encode: func(r *request, e *enc) {
			e.u8(uint8(r.mode))
			e.u64(r.offset)
			e.u64(r.length)
			e.u32(r.count)
			e.str(r.name)
		}})
	L(msgTlink, message{name: "Tlink", run: runLink,
		decode: func(r *request, d *dec) { r.fid, r.fid2, r.name = d.u32(), d.u32(), string(d.str()) }})
	L(msgTrenameat, message{name: "Trenameat", run: runRenameAt,
		decode: func(r *request, d *dec) {
			r.fid, r.name = d.u32(), string(d.str())
			r.fid2, r.name2 = d.u32(), string(d.str())
		}})
	L(msgTunlinkat, message{name: "Tunlinkat", run: runUnlinkAt,
		decode: func(r *request, d *dec) { r.fid, r.name, r.flags = d.u32(), string(d.str()), d.u32() }})

	// What p9's client adds when it may.
	register(msgTwalkgetattr, message{name: "Twalkgetattr", in: dialectG2, run: runWalkGetAttr, decode: decodeWalk,
		encode: func(r *request, e *enc) {
			e.u64(attrBits(r.attrMask))
			encodeAttrs(r, e)
			encodeWalk(r, e)
		}})
	G := func(typ msgType, name string, run func(*request) error, decode func(*request, *dec), encode func(*request, *enc)) {
		register(typ, message{name: name, in: dialectG3, run: run, encode: encode,
			decode: func(r *request, d *dec) {
				decode(r, d)
				r.uid = d.u32()
			}})
	}
	G(msgTucreate, "Tucreate", runCreate, decodeCreate, encodeOpen)
	G(msgTumkdir, "Tumkdir", runMkdir, decodeMkdir, encodeQID)
	G(msgTumknod, "Tumknod", runMknod, decodeMknod, encodeQID)
	G(msgTusymlink, "Tusymlink", runSymlink, decodeSymlink, encodeQID)
}

// permissions are the bits of a mode that creation lets a client choose.
const permissions = 0o7777

func decodeCreate(r *request, d *dec) {
	r.fid, r.name = d.u32(), string(d.str())
	r.flags, r.mode, r.gid = d.u32(), d.u32()&permissions, d.u32()
	r.uid = NoUser
}

func decodeMkdir(r *request, d *dec) {
	r.fid, r.name, r.mode, r.gid = d.u32(), string(d.str()), d.u32()&permissions, d.u32()
	r.uid = NoUser
}

func decodeSymlink(r *request, d *dec) {
	r.fid, r.name, r.name2, r.gid = d.u32(), string(d.str()), string(d.str()), d.u32()
	r.uid = NoUser
}

func decodeMknod(r *request, d *dec) {
	r.fid, r.name, r.mode = d.u32(), string(d.str()), d.u32()
	r.major, r.minor, r.gid = d.u32(), d.u32(), d.u32()
	r.uid = NoUser
}

func decodeSetAttr(r *request, d *dec) {
	r.fid = d.u32()
	v := d.u32()
	r.setMask = p9.SetAttrMask{
		Permissions: v&1 != 0, UID: v&2 != 0, GID: v&4 != 0, Size: v&8 != 0,
		ATime: v&0x10 != 0, MTime: v&0x20 != 0, CTime: v&0x40 != 0,
		ATimeNotSystemTime: v&0x80 != 0, MTimeNotSystemTime: v&0x100 != 0,
	}
	r.setAttr = p9.SetAttr{
		Permissions: p9.FileMode(d.u32() & permissions), UID: p9.UID(d.u32()), GID: p9.GID(d.u32()), Size: d.u64(),
		ATimeSeconds: d.u64(), ATimeNanoSeconds: d.u64(), MTimeSeconds: d.u64(), MTimeNanoSeconds: d.u64(),
	}
}

func attrMask(m uint64) p9.AttrMask {
	return p9.AttrMask{
		Mode: m&1 != 0, NLink: m&2 != 0, UID: m&4 != 0, GID: m&8 != 0, RDev: m&0x10 != 0,
		ATime: m&0x20 != 0, MTime: m&0x40 != 0, CTime: m&0x80 != 0, INo: m&0x100 != 0,
		Size: m&0x200 != 0, Blocks: m&0x400 != 0, BTime: m&0x800 != 0, Gen: m&0x1000 != 0,
		DataVersion: m&0x2000 != 0,
	}
}

func attrBits(m p9.AttrMask) (v uint64) {
	for i, set := range [...]bool{m.Mode, m.NLink, m.UID, m.GID, m.RDev, m.ATime, m.MTime, m.CTime,
		m.INo, m.Size, m.Blocks, m.BTime, m.Gen, m.DataVersion} {
		if set {
			v |= 1 << i
		}
	}
	return v
}

func encodeAttr(r *request, e *enc) {
	e.u64(attrBits(r.attrMask))
	e.qid(r.s.sent(r.qid))
	encodeAttrs(r, e)
}

func encodeAttrs(r *request, e *enc) {
	a := &r.attr
	e.u32(uint32(a.Mode))
	e.u32(uint32(a.UID))
	e.u32(uint32(a.GID))
	for _, v := range [...]uint64{uint64(a.NLink), uint64(a.RDev), a.Size, a.BlockSize, a.Blocks,
		a.ATimeSeconds, a.ATimeNanoSeconds, a.MTimeSeconds, a.MTimeNanoSeconds,
		a.CTimeSeconds, a.CTimeNanoSeconds, a.BTimeSeconds, a.BTimeNanoSeconds, a.Gen, a.DataVersion} {
		e.u64(v)
	}
}

// runWalkGetAttr is a Twalk and a Tgetattr in one, all or nothing.
func runWalkGetAttr(r *request) error {
	if err := runWalk(r); err != nil {
		return err
	}
	walked := r.fid
	r.fid, r.attrMask = r.fid2, p9.AttrMaskAll
	err := runGetAttr(r)
	if err != nil && walked != r.fid2 {
		_ = runClunk(r)
	}
	return err
}
