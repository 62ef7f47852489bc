package ninep

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"

	"vmfs/ninep/wire"
)

// Modes of open(5).
const (
	oRead   = 0
	oExec   = 3
	oTrunc9 = 0x10
	oCexec  = 0x20
	oRclose = 0x40
	oAppend = 0x80 // 9P2000.u's

	linuxAppend = 0o2000
)

// openFlags makes open(2)'s flags of open(5)'s mode.
func (s *session) openFlags(mode uint8) (flags uint32, rclose bool, err error) {
	known := uint8(3 | oTrunc9 | oCexec | oRclose)
	if s.is(wire.Unix) {
		known |= oAppend
	}
	if mode&^known != 0 {
		return 0, false, fault(linux.EINVAL, "bad open mode")
	}
	if flags = uint32(mode & 3); flags == oExec {
		flags = oRead
	}
	if mode&oTrunc9 != 0 {
		flags |= oTrunc
	}
	if mode&oAppend != 0 {
		flags |= linuxAppend
	}
	return flags, mode&oRclose != 0, nil
}

// runOpen9P is Topen.
func runOpen9P(r *request) error {
	s := r.s
	flags, rclose, err := s.openFlags(uint8(r.Mode))
	if err != nil {
		return err
	}
	f := r.f
	if rclose && f.node.isDir() {
		return linux.EISDIR
	}
	if err := s.checkOpen9P(f.node, r.Mode&3 == oExec, rclose); err != nil {
		return err
	}
	r.Flags = flags
	err = runOpen(r)
	if err == nil || err == errLater {
		f.rclose = rclose
	}
	return err
}

// checkOpen9P refuses what open(5) wants permission for and p9.File knows nothing
// of: executing a file that nobody may, and removing one on close from where
// none is removed.
func (s *session) checkOpen9P(n *node, exec, rclose bool) error {
	s.srv.tree.RLock()
	defer s.srv.tree.RUnlock()
	if exec && !n.isDir() {
		_, _, a, err := n.file.GetAttr(p9.AttrMask{Mode: true})
		if err != nil {
			return err
		}
		if a.Mode&0o111 == 0 {
			return linux.EACCES
		}
	}
	if rclose && n.parent != nil {
		if c, ok := n.parent.file.(RemoveChecker); ok {
			return c.CanRemove(n.name)
		}
	}
	return nil
}

// runCreate9P is Tcreate: it makes a file of any kind and makes the fid it,
// open.
func runCreate9P(r *request) (err error) {
	s, f := r.s, r.f
	var rclose bool
	if r.Flags, rclose, err = s.openFlags(uint8(r.Flags)); err != nil {
		return err
	}
	kinds := uint32(wire.DMDIR)
	if s.is(wire.Unix) {
		kinds |= dmSpecial | wire.DMSETUID | wire.DMSETGID | wire.DMSETVTX
	}
	if r.Mode&^(kinds|wire.DMTMP|0o777) != 0 {
		return fault(linux.EOPNOTSUPP, "files of that mode cannot be created here: operation not supported")
	}
	if r.Mode&wire.DMDIR != 0 && (r.Flags != oRead || rclose) {
		return linux.EISDIR
	}
	if r.Mode&wire.DMLINK != 0 {
		if r.f2, err = s.linkTarget(r.Name2); err != nil {
			return err
		}
	}
	if s.lookUp(f.node, r.Name).known {
		return linux.EEXIST
	}
	if err := s.beginCreate(f); err != nil {
		return err
	}
	f.rclose = rclose
	if makesSlowly(f.node, r.Mode) {
		return s.laterOr(r, nil, execCreate9P, undoOpen)
	}
	return execCreate9P(atOnce, r)
}

// makesSlowly reports whether a directory's way to make a file of that kind can
// block.
func makesSlowly(n *node, kind uint32) (ok bool) {
	switch {
	case kind&wire.DMDIR != 0:
		_, ok = n.file.(MkdirerContext)
	case kind&dmSpecial == 0:
		_, ok = n.file.(CreatorContext)
	}
	return ok
}

func execCreate9P(ctx context.Context, r *request) (err error) {
	s, f := r.s, r.f
	ok := false
	defer func() {
		if !ok {
			s.endOpen(f, fidClosed)
		}
	}()
	kind, perm := r.Mode, r.Mode&0o777
	if s.is(wire.Plan9) {
		if perm, err = s.inherit(f.node, perm, kind&wire.DMDIR != 0); err != nil {
			return err
		}
	}
	r.Mode = perm | unixBits(kind)
	if kind&(wire.DMDIR|dmSpecial) == 0 {
		ok = true
		return execCreate(ctx, r)
	}
	if err := s.makeSpecial(ctx, r, kind); err != nil {
		return err
	}
	dir, err := s.stepInto(f, r.Name)
	if err != nil {
		return err
	}
	if kind&wire.DMDIR != 0 {
		ok = true
		return s.openAs(ctx, r, dir)
	}
	r.QID, r.Count = f.node.qid, 0
	return s.release(atOnce, dir)
}

// inherit makes a new file's permissions of those asked for and its
// directory's, as open(5) wants it.
func (s *session) inherit(dir *node, perm uint32, isDir bool) (uint32, error) {
	s.srv.tree.RLock()
	defer s.srv.tree.RUnlock()
	_, _, a, err := dir.file.GetAttr(p9.AttrMaskAll)
	if err != nil {
		return 0, err
	}
	bits := uint32(0o666)
	if isDir {
		bits = 0o777
	}
	return perm & (^bits | uint32(a.Mode)&bits), nil
}

// makeSpecial makes what is not a regular file.
func (s *session) makeSpecial(ctx context.Context, r *request, kind uint32) error {
	switch {
	case kind&wire.DMDIR != 0:
		return execMkdir(ctx, r)
	case kind&wire.DMSYMLINK != 0:
		return runSymlink(r)
	case kind&wire.DMLINK != 0:
		return s.link(r)
	case kind&wire.DMNAMEDPIPE != 0:
		r.Mode |= uint32(p9.ModeNamedPipe)
	case kind&wire.DMSOCKET != 0:
		r.Mode |= uint32(p9.ModeSocket)
	default:
		var c byte
		if _, err := fmt.Sscanf(r.Name2, "%c %d %d", &c, &r.Major, &r.Minor); err != nil || c != 'c' && c != 'b' {
			return fault(linux.EINVAL, "not a device, want \"c MAJOR MINOR\" or \"b MAJOR MINOR\": "+strconv.Quote(r.Name2))
		}
		device := p9.ModeCharacterDevice
		if c == 'b' {
			device = p9.ModeBlockDevice
		}
		r.Mode |= uint32(device)
	}
	return runMknod(r)
}

// linkTarget finds the fid that the extension of a link names.
func (s *session) linkTarget(extension string) (*fid, error) {
	num, err := strconv.ParseUint(strings.TrimSpace(extension), 10, 32)
	if err != nil {
		return nil, fault(linux.EINVAL, "not the number of a fid to link to: "+strconv.Quote(extension))
	}
	return s.fileOf(uint32(num))
}
