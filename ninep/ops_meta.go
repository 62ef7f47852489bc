package ninep

import (
	"context"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"
)

// fileOf gives a fid that stands for a file.
func (s *session) fileOf(num uint32) (*fid, error) {
	f, err := s.fid(num)
	if err == nil && f.xattr != nil {
		return nil, errXattrFid
	}
	return f, err
}

// runGetAttr also serves fids whose file is gone: it is how a client learns.
func runGetAttr(r *request) (err error) {
	r.Attr = &r.s.c.attr
	r.s.srv.tree.RLock()
	defer r.s.srv.tree.RUnlock()
	r.QID, r.Mask, *r.Attr, err = r.f.node.file.GetAttr(r.Mask)
	return err
}

// permissions are the bits of a mode that a client may choose.
const permissions = 0o7777

func execSetAttr(ctx context.Context, r *request) error {
	if err := r.f.node.checkSetAttr(r.SetMask, r.SetAttr); err != nil {
		return err
	}
	return r.s.setAttr(ctx, r.f.node, r.SetMask, *r.SetAttr)
}

// setAttr changes attributes.
func (s *session) setAttr(ctx context.Context, n *node, mask p9.SetAttrMask, attr p9.SetAttr) error {
	if a, ok := n.file.(AttrSetterContext); ok {
		return a.SetAttrContext(ctx, mask, attr)
	}
	s.srv.tree.Lock()
	defer s.srv.tree.Unlock()
	if err := n.canChange(); err != nil {
		return err
	}
	return n.file.SetAttr(mask, attr)
}

// checkSetAttr refuses what no file of the kind can do, before any of it is done. Linux
// sends the kind with the permissions.
func (n *node) checkSetAttr(valid p9.SetAttrMask, attr *p9.SetAttr) error {
	kind := attr.Permissions &^ permissions
	attr.Permissions &= permissions
	switch {
	case valid.Size && n.isDir():
		return linux.EISDIR
	case !valid.Permissions || kind == 0:
	case kind&^p9.FileModeMask != 0, n.isDir() != (kind == p9.ModeDirectory), n.isSymlink() != (kind == p9.ModeSymlink):
		return fault(linux.EINVAL, "the mode names another kind of file, or has unknown bits: invalid argument")
	}
	return nil
}

// runWalkGetAttr is a Twalk and a Tgetattr in one, all or nothing.
func runWalkGetAttr(r *request) error {
	if err := runWalk(r); err != nil {
		return err
	}
	walked := r.Fid
	r.Fid, r.Mask = r.Fid2, p9.AttrMaskAll
	err := findFile(r)
	if err == nil {
		err = runGetAttr(r)
	}
	if err != nil && walked != r.Fid2 {
		_ = runClunk(r)
	}
	return err
}

// runStatFS tells of the file system.
func runStatFS(r *request) (err error) {
	r.FSStat = &r.s.c.fsstat
	*r.FSStat, err = r.f.node.file.StatFS()
	return err
}

// runReadlink reads a symbolic link.
func runReadlink(r *request) (err error) {
	if !r.f.node.isSymlink() {
		return linux.EINVAL
	}
	r.Name2, err = r.s.readlink(r.f.node)
	return err
}

func (s *session) readlink(n *node) (string, error) {
	s.srv.tree.RLock()
	defer s.srv.tree.RUnlock()
	if err := n.canChange(); err != nil {
		return "", err
	}
	return n.file.Readlink()
}

// dirOf gives a fid of a directory for a change of what is in it.
func (s *session) dirOf(num uint32, names ...string) (*fid, error) {
	f, err := s.fileOf(num)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if err := checkName(name); err != nil {
			return nil, err
		}
	}
	if !f.node.isDir() {
		return nil, linux.ENOTDIR
	}
	return f, nil
}

// execMkdir makes a directory.
func execMkdir(ctx context.Context, r *request) (err error) {
	perm, uid, gid := p9.FileMode(r.Mode&permissions), p9.UID(r.UID), p9.GID(r.GID)
	if m, ok := r.f.node.file.(MkdirerContext); ok {
		r.QID, err = m.MkdirContext(ctx, r.Name, perm, uid, gid)
		return err
	}
	return r.s.changeDir(r.f.node, func(dir p9.File) (err error) {
		r.QID, err = dir.Mkdir(r.Name, perm, uid, gid)
		return err
	})
}

// changeDir calls one of a directory's plain methods that change it.
func (s *session) changeDir(n *node, fn func(dir p9.File) error) error {
	s.srv.tree.Lock()
	defer s.srv.tree.Unlock()
	if err := n.canHold(); err != nil {
		return err
	}
	return fn(n.file)
}

func runSymlink(r *request) error {
	return r.s.changeDir(r.f.node, func(dir p9.File) (err error) {
		r.QID, err = dir.Symlink(r.Name2, r.Name, p9.UID(r.UID), p9.GID(r.GID))
		return err
	})
}

func runMknod(r *request) error {
	return r.s.changeDir(r.f.node, func(dir p9.File) (err error) {
		r.QID, err = dir.Mknod(r.Name, p9.FileMode(r.Mode), r.Major, r.Minor, p9.UID(r.UID), p9.GID(r.GID))
		return err
	})
}

func runLink(r *request) (err error) {
	if r.f2, err = r.s.fileOf(r.Fid2); err != nil {
		return err
	}
	return r.s.link(r)
}

// link gives f2's file a name in f's directory.
func (s *session) link(r *request) error {
	return s.changeDir(r.f.node, func(dir p9.File) error {
		if err := r.f2.node.canChange(); err != nil {
			return err
		}
		return dir.Link(r.f2.node.file, r.Name)
	})
}

// execUnlinkAt removes a name.
func execUnlinkAt(ctx context.Context, r *request) error {
	return r.s.unlinkName(ctx, nil, r.f.node, r.Name, r.Flags)
}

// runRenameAt moves a name from one directory to another.
func runRenameAt(r *request) (err error) {
	if r.f2, err = r.s.dirOf(r.Fid2, r.Name2); err != nil {
		return err
	}
	return r.s.startRename(r, nil, r.f.node)
}

// runRename moves a file to another directory.
func runRename(r *request) (err error) {
	if r.f2, err = r.s.dirOf(r.Fid2, r.Name); err != nil {
		return err
	}
	parent := r.s.parentOf(r.f.node)
	if parent == nil {
		return errRenameRoot
	}
	defer func() { _ = r.s.release(atOnce, parent) }()
	r.Name2 = r.Name
	return r.s.startRename(r, r.f.node, parent)
}

// startRename renames, in a goroutine that keeps the directories alive if it can block.
func (s *session) startRename(r *request, n, from *node) error {
	to := r.f2.node
	if _, ok := from.file.(RenamerContext); !ok {
		return s.rename(atOnce, n, from, r.Name, to, r.Name2)
	}
	from.refs.Add(1)
	to.refs.Add(1)
	drop := func(*request) {
		_ = s.release(atOnce, from)
		_ = s.release(atOnce, to)
	}
	return s.laterOr(r, nil, func(ctx context.Context, r *request) error {
		defer drop(r)
		return s.rename(ctx, n, from, r.Name, to, r.Name2)
	}, drop)
}

// rename renames, and makes the nodes follow: the name in the directory, or the one that
// n has there if n is not nil.
func (s *session) rename(ctx context.Context, n, from *node, oldName string, to *node, newName string) (err error) {
	tree := &s.srv.tree
	if dir, ok := from.file.(RenamerContext); ok {
		if n != nil {
			if oldName, err = s.nameOf(n); err != nil {
				return err
			}
		}
		tree.RLock()
		done, err := s.checkRename(from, oldName, to, newName)
		tree.RUnlock()
		if done || err != nil {
			return err
		}
		if err := dir.RenameAtContext(ctx, oldName, to.file, newName); err != nil {
			return err
		}
		tree.Lock()
		defer tree.Unlock()
	} else {
		tree.Lock()
		defer tree.Unlock()
		if n != nil {
			if err := n.canChange(); err != nil {
				return err
			}
			from, oldName = n.parent, n.name
		}
		done, err := s.checkRename(from, oldName, to, newName)
		if done || err != nil {
			return err
		}
		for _, dir := range []*node{from, to} {
			if err := dir.canHold(); err != nil {
				return err
			}
		}
		if err := from.file.RenameAt(oldName, to.file, newName); err != nil {
			return err
		}
	}
	s.srv.renamed(s, from, oldName, to, newName)
	return nil
}

// checkRename refuses to move a directory into itself. A rename that changes nothing is
// done at once, if there is such a file. Server.tree must be held.
func (s *session) checkRename(from *node, oldName string, to *node, newName string) (done bool, err error) {
	if from.qid.Path == to.qid.Path && oldName == newName {
		n, err := s.step(from, oldName, new([1]string))
		if err == nil {
			_ = s.release(atOnce, n)
		}
		return true, err
	}
	if to.isBelow(from, oldName) {
		return false, errCycle
	}
	return false, nil
}

// isBelow reports whether a node is an entry of a directory, or in it.
func (n *node) isBelow(dir *node, name string) bool {
	for ; n != nil; n = n.parent {
		if n.isEntry(dir, name) {
			return true
		}
	}
	return false
}
