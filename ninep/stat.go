package ninep

import (
	"fmt"
	"strconv"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"

	"vmfs/ninep/wire"
)

// dmSpecial are the kinds of files that 9P2000.u creates by Tcreate.
const dmSpecial = wire.DMSYMLINK | wire.DMLINK | wire.DMDEVICE | wire.DMNAMEDPIPE | wire.DMSOCKET

// setBits are the bits of 9P2000.u that Unix has in other places of a mode.
var setBits = [...]struct{ dm, unix uint32 }{{wire.DMSETUID, 0o4000}, {wire.DMSETGID, 0o2000}, {wire.DMSETVTX, 0o1000}}

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

// statOf describes a node. Server.tree must be held.
func (s *session) statOf(n *node, st *wire.Stat) error {
	qid, _, a, err := n.file.GetAttr(p9.AttrMaskAll)
	if err != nil {
		return err
	}
	s.fillStat(st, n, qid, &a)
	if s.is(wire.Unix) && n.isSymlink() {
		if st.Extension, err = n.file.Readlink(); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) fillStat(st *wire.Stat, n *node, qid p9.QID, a *p9.Attr) {
	*st = wire.Stat{
		QID:    s.sent(qid),
		Mode:   uint32(a.Mode)&0o777 | uint32(qid.Type)<<24,
		Atime:  uint32(a.ATimeSeconds),
		Mtime:  uint32(a.MTimeSeconds),
		Length: a.Size,
		Name:   n.name,
		UID:    s.srv.nameOf(UserNames.UserName, uint32(a.UID)),
		GID:    s.srv.nameOf(UserNames.GroupName, uint32(a.GID)),
		NUID:   uint32(a.UID),
		NGID:   uint32(a.GID),
		NMUID:  uint32(a.UID),
	}
	st.MUID = st.UID
	if !a.Mode.IsRegular() && !(a.Mode.IsSymlink() && s.is(wire.Unix)) {
		st.Length = 0 // of directories and devices
	}
	if n.isRoot() {
		st.Name = "/"
	}
	if !s.is(wire.Unix) {
		st.Mode &^= wire.DMSYMLINK | wire.DMLINK
		return
	}
	st.Mode |= dmBits(uint32(a.Mode))
	switch dev := uint64(a.RDev); {
	case a.Mode.IsSymlink():
		st.Mode |= wire.DMSYMLINK
	case a.Mode.IsNamedPipe():
		st.Mode |= wire.DMNAMEDPIPE
	case a.Mode.IsSocket():
		st.Mode |= wire.DMSOCKET
	case a.Mode.IsCharacterDevice():
		st.Mode |= wire.DMDEVICE
		st.Extension = fmt.Sprintf("c %d %d", devMajor(dev), devMinor(dev))
	case a.Mode.IsBlockDevice():
		st.Mode |= wire.DMDEVICE
		st.Extension = fmt.Sprintf("b %d %d", devMajor(dev), devMinor(dev))
	}
}

// Linux's way to put a device's numbers into one.
func devMajor(dev uint64) uint32 { return uint32(dev>>8&0xfff | dev>>32&^0xfff) }
func devMinor(dev uint64) uint32 { return uint32(dev&0xff | dev>>12&^0xff) }

// nameOf gives a user's or group's name, and idOf the number for one.
func (srv *Server) nameOf(known func(UserNames, uint32) (string, bool), id uint32) string {
	if srv.Names != nil {
		if name, ok := known(srv.Names, id); ok {
			return name
		}
	}
	return strconv.FormatUint(uint64(id), 10)
}

func (srv *Server) idOf(known func(UserNames, string) (uint32, bool), what, name string) (uint32, error) {
	if srv.Names != nil {
		if id, ok := known(srv.Names, name); ok {
			return id, nil
		}
	}
	id, err := strconv.ParseUint(name, 10, 32)
	if err != nil {
		return 0, fault(linux.EINVAL, "unknown "+what+" "+strconv.Quote(name))
	}
	return uint32(id), nil
}
