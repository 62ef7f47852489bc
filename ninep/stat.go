package ninep

import (
	"encoding/binary"
	"fmt"
	"strconv"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"
)

// stat is a file's description as stat(5) has it, with what 9P2000.u adds.
type stat struct {
	typ          uint16
	dev          uint32
	qid          p9.QID
	mode         uint32
	atime, mtime uint32
	length       uint64
	name         string
	uid, gid     string
	muid         string

	ext         string // 9P2000.u: a link's target, or a device
	nuid, ngid  uint32
	nmuid       uint32
	unspecified bool // every field says "do not touch"
}

// Bits of a mode beside the permissions.
const (
	dmDir       = 0x80000000
	dmAppend    = 0x40000000
	dmExcl      = 0x20000000
	dmTmp       = 0x04000000
	dmSymlink   = 0x02000000 // this and the rest are 9P2000.u's
	dmLink      = 0x01000000
	dmDevice    = 0x00800000
	dmNamedPipe = 0x00200000
	dmSocket    = 0x00100000
	dmSetuid    = 0x00080000
	dmSetgid    = 0x00040000
	dmSetvtx    = 0x00010000

	dmSpecial = dmSymlink | dmLink | dmDevice | dmNamedPipe | dmSocket
)

// setBits are the bits of 9P2000.u that Unix has in other places of a mode.
var setBits = [...]struct{ dm, unix uint32 }{{dmSetuid, 0o4000}, {dmSetgid, 0o2000}, {dmSetvtx, 0o1000}}

// unixBits gives Unix's bits for those of a 9P2000.u mode, and dmBits the other
// way round.
func unixBits(mode uint32) (bits uint32) {
	for _, b := range setBits {
		if mode&b.dm != 0 {
			bits |= b.unix
		}
	}
	return bits
}

func dmBits(mode uint32) (bits uint32) {
	for _, b := range setBits {
		if mode&b.unix != 0 {
			bits |= b.dm
		}
	}
	return bits
}

// dontTouch is what a wstat says of a number that stays as it is.
const dontTouch = ^uint32(0)

// statOf describes a node. Server.tree must be held.
func (s *session) statOf(n *node, st *stat) error {
	qid, _, a, err := n.file.GetAttr(p9.AttrMaskAll)
	if err != nil {
		return err
	}
	s.fillStat(st, n, qid, &a)
	if s.is(dialectU) && n.isSymlink() {
		if st.ext, err = n.file.Readlink(); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) fillStat(st *stat, n *node, qid p9.QID, a *p9.Attr) {
	*st = stat{
		qid:    s.sent(qid),
		mode:   uint32(a.Mode)&0o777 | uint32(qid.Type)<<24,
		atime:  uint32(a.ATimeSeconds),
		mtime:  uint32(a.MTimeSeconds),
		length: a.Size,
		name:   n.name,
		uid:    s.srv.userName(uint32(a.UID)),
		gid:    s.srv.groupName(uint32(a.GID)),
		nuid:   uint32(a.UID),
		ngid:   uint32(a.GID),
		nmuid:  uint32(a.UID),
	}
	st.muid = st.uid
	if !a.Mode.IsRegular() && !(a.Mode.IsSymlink() && s.is(dialectU)) {
		st.length = 0 // of directories and devices
	}
	if n.isRoot() {
		st.name = "/"
	}
	if !s.is(dialectU) {
		st.mode &^= dmSymlink | dmLink
		return
	}
	st.mode |= dmBits(uint32(a.Mode))
	switch dev := uint64(a.RDev); {
	case a.Mode.IsSymlink():
		st.mode |= dmSymlink
	case a.Mode.IsNamedPipe():
		st.mode |= dmNamedPipe
	case a.Mode.IsSocket():
		st.mode |= dmSocket
	case a.Mode.IsCharacterDevice():
		st.mode |= dmDevice
		st.ext = fmt.Sprintf("c %d %d", devMajor(dev), devMinor(dev))
	case a.Mode.IsBlockDevice():
		st.mode |= dmDevice
		st.ext = fmt.Sprintf("b %d %d", devMajor(dev), devMinor(dev))
	}
}

// Linux's way to put a device's numbers into one.
func devMajor(dev uint64) uint32 { return uint32(dev>>8&0xfff | dev>>32&^0xfff) }
func devMinor(dev uint64) uint32 { return uint32(dev&0xff | dev>>12&^0xff) }

// encodeStat writes a record with its own length before it.
func (s *session) encodeStat(e *enc, st *stat) {
	start := len(e.b)
	e.u16(0)
	e.u16(st.typ)
	e.u32(st.dev)
	e.qid(st.qid)
	e.u32(st.mode)
	e.u32(st.atime)
	e.u32(st.mtime)
	e.u64(st.length)
	e.str(st.name)
	e.str(st.uid)
	e.str(st.gid)
	e.str(st.muid)
	if s.is(dialectU) {
		e.str(st.ext)
		e.u32(st.nuid)
		e.u32(st.ngid)
		e.u32(st.nmuid)
	}
	binary.LittleEndian.PutUint16(e.b[start:], uint16(len(e.b)-start-2))
}

// decodeStat reads a record.
func (s *session) decodeStat(d *dec) *stat {
	sub := dec{b: d.take(int(d.u16()))}
	if size := int(sub.u16()); size != len(sub.b) {
		d.bad = true
		return nil
	}
	st := &stat{typ: sub.u16(), dev: sub.u32(), qid: sub.qid(), mode: sub.u32(), atime: sub.u32(), mtime: sub.u32(), length: sub.u64()}
	st.name, st.uid, st.gid, st.muid = string(sub.str()), string(sub.str()), string(sub.str()), string(sub.str())
	st.nuid, st.ngid, st.nmuid = dontTouch, dontTouch, dontTouch
	if s.is(dialectU) {
		st.ext = string(sub.str())
		st.nuid, st.ngid, st.nmuid = sub.u32(), sub.u32(), sub.u32()
	}
	if !sub.ok() {
		d.bad = true
	}
	st.unspecified = *st == untouched
	return st
}

// untouched is the stat of a wstat that changes nothing.
var untouched = stat{
	typ: 1<<16 - 1, dev: dontTouch, qid: p9.QID{Type: 0xff, Version: dontTouch, Path: 1<<64 - 1},
	mode: dontTouch, atime: dontTouch, mtime: dontTouch, length: 1<<64 - 1,
	nuid: dontTouch, ngid: dontTouch, nmuid: dontTouch,
}

func (srv *Server) userName(uid uint32) string {
	if srv.Names != nil {
		if name, ok := srv.Names.UserName(uid); ok {
			return name
		}
	}
	return strconv.FormatUint(uint64(uid), 10)
}

func (srv *Server) groupName(gid uint32) string {
	if srv.Names != nil {
		if name, ok := srv.Names.GroupName(gid); ok {
			return name
		}
	}
	return strconv.FormatUint(uint64(gid), 10)
}

func (srv *Server) groupID(name string) (uint32, error) {
	if srv.Names != nil {
		if gid, ok := srv.Names.GroupID(name); ok {
			return gid, nil
		}
	}
	return numericID("group", name)
}

func (srv *Server) userID(name string) (uint32, error) {
	if srv.Names != nil {
		if uid, ok := srv.Names.UserID(name); ok {
			return uid, nil
		}
	}
	return numericID("user", name)
}

func numericID(what, name string) (uint32, error) {
	id, err := strconv.ParseUint(name, 10, 32)
	if err != nil {
		return 0, fault(linux.EINVAL, "unknown "+what+" "+strconv.Quote(name))
	}
	return uint32(id), nil
}
