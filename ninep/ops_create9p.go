package ninep

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"
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
	if s.is(dialectU) {
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
	flags, rclose, err := s.openFlags(uint8(r.mode))
	if err != nil {
		return err
	}
	f, err := s.fileOf(r.fid)
	if err != nil {
		return err
	}
	if rclose && f.node.isDir() {
		return errIsDir
	}
	if err := s.checkOpen9P(f.node, r.mode&3 == oExec, rclose); err != nil {
		return err
	}
	r.flags = flags
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
func runCreate9P(r *request) error {
	s := r.s
	f, err := s.dirOf(r.fid, r.name)
	if err != nil {
		return err
	}
	var rclose bool
	if r.flags, rclose, err = s.openFlags(uint8(r.flags)); err != nil {
		return err
	}
	kinds := uint32(dmDir)
	if s.is(dialectU) {
		kinds |= dmSpecial | dmSetuid | dmSetgid | dmSetvtx
	}
	if r.mode&^(kinds|dmTmp|0o777) != 0 {
		return fault(linux.EOPNOTSUPP, "files of that mode cannot be created here")
	}
	if r.mode&dmDir != 0 && (r.flags != oRead || rclose) {
		return errIsDir
	}
	if r.mode&dmLink != 0 {
		if r.f2, err = s.linkTarget(r.name2); err != nil {
			return err
		}
	}
	if err := s.beginCreate(f); err != nil {
		return err
	}
	r.f = f
	f.rclose = rclose
	if makesSlowly(f.node, r.mode) {
		return s.laterOr(r, nil, execCreate9P, undoOpen)
	}
	return execCreate9P(atOnce, r)
}

// makesSlowly reports whether a directory's way to make a file of that kind can
// block.
func makesSlowly(n *node, kind uint32) (ok bool) {
	switch {
	case kind&dmDir != 0:
		_, ok = n.file.(MkdirerContext)
	case kind&dmSpecial == 0:
		_, ok = n.file.(CreatorContext)
	}
	return ok
}

func execCreate9P(ctx context.Context, r *request) (err error) {
	s, f := r.s, r.f
	special := r.mode&(dmDir|dmSpecial) != 0
	perm := r.mode & 0o777
	if s.is(dialect9P) {
		if perm, err = s.inherit(f.node, perm, r.mode&dmDir != 0); err != nil {
			s.endOpen(f, fidClosed)
			return err
		}
	}
	kind := r.mode
	r.mode = perm | unixBits(kind)
	if !special {
		return execCreate(ctx, r)
	}
	state := fidClosed
	defer func() { s.endOpen(f, state) }()
	if err := s.makeSpecial(ctx, r, kind); err != nil {
		return err
	}
	dir, err := s.stepInto(f, r.name)
	if err != nil {
		return err
	}
	r.qid, r.count = f.node.qid, 0
	if kind&dmDir != 0 {
		// It is made, and open(5) does not ask if its permissions let it be
		// read: who may not will be told so by what he reads.
		made := r.qid
		if r.qid, r.count, err = s.openNode(ctx, f.node); err != nil && errnoOf(err) == linux.EACCES {
			r.qid, r.count, err = made, 0, nil
		}
		if err != nil {
			_ = s.release(atOnce, s.replace(f, dir))
			return err
		}
		s.opened(f, p9.ReadOnly)
		state = fidOpen
	}
	_ = s.release(atOnce, dir)
	return nil
}

// stepInto makes a fid a file's in its directory, which it gives.
func (s *session) stepInto(f *fid, name string) (dir *node, err error) {
	s.srv.tree.RLock()
	defer s.srv.tree.RUnlock()
	n, err := s.step(f.node, name, new([1]string))
	if err != nil {
		return nil, err
	}
	return s.replace(f, n), nil
}

func (s *session) openNode(ctx context.Context, n *node) (p9.QID, uint32, error) {
	if o, ok := n.file.(OpenerContext); ok {
		return o.OpenContext(ctx, p9.ReadOnly)
	}
	return s.openPlain(n, p9.ReadOnly)
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
	if kind&dmDir != 0 {
		if m, ok := r.f.node.file.(MkdirerContext); ok {
			_, err := m.MkdirContext(ctx, r.name, p9.FileMode(r.mode), p9.NoUID, p9.NoGID)
			return err
		}
	}
	return s.changeDir(r.f.node, func(dir p9.File) (err error) {
		switch {
		case kind&dmDir != 0:
			_, err = dir.Mkdir(r.name, p9.FileMode(r.mode), p9.NoUID, p9.NoGID)
		case kind&dmSymlink != 0:
			_, err = dir.Symlink(r.name2, r.name, p9.NoUID, p9.NoGID)
		case kind&dmLink != 0:
			if err = r.f2.node.canChange(); err == nil {
				err = dir.Link(r.f2.node.file, r.name)
			}
		default:
			err = mknod(dir, r, kind)
		}
		return err
	})
}

// linkTarget finds the fid that the extension of a link names.
func (s *session) linkTarget(extension string) (*fid, error) {
	num, err := strconv.ParseUint(strings.TrimSpace(extension), 10, 32)
	if err != nil {
		return nil, fault(linux.EINVAL, "link to no fid: "+strconv.Quote(extension))
	}
	return s.fileOf(uint32(num))
}

func mknod(dir p9.File, r *request, kind uint32) error {
	mode := p9.FileMode(r.mode)
	var major, minor uint32
	switch {
	case kind&dmNamedPipe != 0:
		mode |= p9.ModeNamedPipe
	case kind&dmSocket != 0:
		mode |= p9.ModeSocket
	default:
		var c byte
		if _, err := fmt.Sscanf(r.name2, "%c %d %d", &c, &major, &minor); err != nil || c != 'c' && c != 'b' {
			return fault(linux.EINVAL, "no device: "+strconv.Quote(r.name2))
		}
		kind := p9.ModeCharacterDevice
		if c == 'b' {
			kind = p9.ModeBlockDevice
		}
		mode |= kind
	}
	_, err := dir.Mknod(r.name, mode, major, minor, p9.NoUID, p9.NoGID)
	return err
}
