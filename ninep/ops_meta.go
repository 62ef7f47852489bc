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
func runGetAttr(r *request) error {
	s := r.s
	f, err := s.fileOf(r.fid)
	if err != nil {
		return err
	}
	s.srv.tree.RLock()
	defer s.srv.tree.RUnlock()
	r.qid, r.attrMask, r.attr, err = f.node.file.GetAttr(r.attrMask)
	return err
}

// runSetAttr changes attributes.
func runSetAttr(r *request) error {
	s := r.s
	f, err := s.fileOf(r.fid)
	if err != nil {
		return err
	}
	if _, ok := f.node.file.(AttrSetterContext); ok {
		r.f = f
		return s.later(r, nil, execSetAttr)
	}
	s.srv.tree.Lock()
	defer s.srv.tree.Unlock()
	if err := f.node.canChange(); err != nil {
		return err
	}
	return f.node.file.SetAttr(r.setMask, r.setAttr)
}

func execSetAttr(ctx context.Context, r *request) error {
	return r.f.node.file.(AttrSetterContext).SetAttrContext(ctx, r.setMask, r.setAttr)
}

// runStatFS tells of the file system.
func runStatFS(r *request) error {
	f, err := r.s.fileOf(r.fid)
	if err != nil {
		return err
	}
	r.fsstat, err = f.node.file.StatFS()
	return err
}

// runReadlink reads a symbolic link.
func runReadlink(r *request) error {
	s := r.s
	f, err := s.fileOf(r.fid)
	if err != nil {
		return err
	}
	if !f.node.isSymlink() {
		return linux.EINVAL
	}
	r.name, err = s.readlink(f.node)
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
		return nil, errNotDir
	}
	return f, nil
}

// runMkdir makes a directory.
func runMkdir(r *request) error {
	s := r.s
	f, err := s.dirOf(r.fid, r.name)
	if err != nil {
		return err
	}
	if _, ok := f.node.file.(MkdirerContext); ok {
		r.f = f
		return s.later(r, nil, execMkdir)
	}
	return s.changeDir(f.node, func(dir p9.File) (err error) {
		r.qid, err = dir.Mkdir(r.name, p9.FileMode(r.mode), p9.UID(r.uid), p9.GID(r.gid))
		return err
	})
}

func execMkdir(ctx context.Context, r *request) (err error) {
	r.qid, err = r.f.node.file.(MkdirerContext).MkdirContext(ctx, r.name, p9.FileMode(r.mode), p9.UID(r.uid), p9.GID(r.gid))
	return err
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
	f, err := r.s.dirOf(r.fid, r.name)
	if err != nil {
		return err
	}
	return r.s.changeDir(f.node, func(dir p9.File) (err error) {
		r.qid, err = dir.Symlink(r.name2, r.name, p9.UID(r.uid), p9.GID(r.gid))
		return err
	})
}

func runMknod(r *request) error {
	f, err := r.s.dirOf(r.fid, r.name)
	if err != nil {
		return err
	}
	return r.s.changeDir(f.node, func(dir p9.File) (err error) {
		r.qid, err = dir.Mknod(r.name, p9.FileMode(r.mode), r.major, r.minor, p9.UID(r.uid), p9.GID(r.gid))
		return err
	})
}

func runLink(r *request) error {
	f, err := r.s.dirOf(r.fid, r.name)
	if err != nil {
		return err
	}
	target, err := r.s.fileOf(r.fid2)
	if err != nil {
		return err
	}
	return r.s.changeDir(f.node, func(dir p9.File) error {
		if err := target.node.canChange(); err != nil {
			return err
		}
		return dir.Link(target.node.file, r.name)
	})
}

// runUnlinkAt removes a name.
func runUnlinkAt(r *request) error {
	s := r.s
	f, err := s.dirOf(r.fid, r.name)
	if err != nil {
		return err
	}
	if _, ok := f.node.file.(UnlinkerContext); ok {
		r.f = f
		return s.later(r, nil, execUnlinkAt)
	}
	return s.changeDir(f.node, func(dir p9.File) error {
		if err := dir.UnlinkAt(r.name, r.flags); err != nil {
			return err
		}
		s.srv.unlinked(f.node, r.name, fileID{})
		return nil
	})
}

func execUnlinkAt(ctx context.Context, r *request) error {
	return r.s.unlinkLater(ctx, r.f.node, r.name, r.flags, r.s.lookUp(r.f.node, r.name))
}

// unlinkLater removes a name in a way that can block.
func (s *session) unlinkLater(ctx context.Context, dir *node, name string, flags uint32, id fileID) error {
	if err := dir.file.(UnlinkerContext).UnlinkAtContext(ctx, name, flags); err != nil {
		return err
	}
	s.srv.tree.Lock()
	defer s.srv.tree.Unlock()
	s.srv.unlinked(dir, name, id)
	return nil
}

// runRenameAt moves a name from one directory to another.
func runRenameAt(r *request) error {
	s := r.s
	from, err := s.dirOf(r.fid, r.name)
	if err != nil {
		return err
	}
	to, err := s.dirOf(r.fid2, r.name2)
	if err != nil {
		return err
	}
	if _, ok := from.node.file.(RenamerContext); ok {
		r.f, r.f2 = from, to
		return s.renameLater(r, from.node, to.node)
	}
	s.srv.tree.Lock()
	defer s.srv.tree.Unlock()
	return s.rename(atOnce, from.node, r.name, to.node, r.name2)
}

// runRename moves a file to another directory.
func runRename(r *request) error {
	s := r.s
	f, err := s.fileOf(r.fid)
	if err != nil {
		return err
	}
	to, err := s.dirOf(r.fid2, r.name)
	if err != nil {
		return err
	}
	parent := s.parentOf(f.node)
	if parent == nil {
		return errRenameRoot
	}
	defer func() { _ = s.release(atOnce, parent) }()
	r.name2 = r.name
	if _, ok := parent.file.(RenamerContext); ok {
		if r.name, err = s.nameOf(f.node); err != nil {
			return err
		}
		r.f, r.f2 = f, to
		return s.renameLater(r, parent, to.node)
	}
	s.srv.tree.Lock()
	defer s.srv.tree.Unlock()
	if err := f.node.canChange(); err != nil {
		return err
	}
	return s.rename(atOnce, f.node.parent, f.node.name, to.node, r.name2)
}

// renameLater renames in a goroutine, which keeps the directories alive.
func (s *session) renameLater(r *request, from, to *node) error {
	from.refs.Add(1)
	to.refs.Add(1)
	drop := func(*request) {
		_ = s.release(atOnce, from)
		_ = s.release(atOnce, to)
	}
	return s.laterOr(r, nil, func(ctx context.Context, r *request) error {
		defer drop(r)
		return s.rename(ctx, from, r.name, to, r.name2)
	}, drop)
}

// rename renames, and makes the nodes follow. With a context it calls the
// method that takes one; with atOnce, Server.tree must be held for writing.
func (s *session) rename(ctx context.Context, from *node, oldName string, to *node, newName string) error {
	if from.qid.Path == to.qid.Path && oldName == newName {
		return s.checkThere(ctx, from, oldName)
	}
	if ctx != atOnce {
		if err := s.checkCycle(from, oldName, to); err != nil {
			return err
		}
		if err := from.file.(RenamerContext).RenameAtContext(ctx, oldName, to.file, newName); err != nil {
			return err
		}
		s.srv.tree.Lock()
		defer s.srv.tree.Unlock()
	} else {
		if err := from.canHold(); err != nil {
			return err
		}
		if err := to.canHold(); err != nil {
			return err
		}
		if to.isBelow(from, oldName) {
			return errCycle
		}
		if err := from.file.RenameAt(oldName, to.file, newName); err != nil {
			return err
		}
	}
	s.srv.renamed(s, from, oldName, to, newName)
	return nil
}

// checkThere is a rename that changes nothing: what there is not cannot be
// renamed.
func (s *session) checkThere(ctx context.Context, dir *node, name string) error {
	if ctx != atOnce {
		s.srv.tree.RLock()
		defer s.srv.tree.RUnlock()
	}
	n, err := s.step(dir, name, new([1]string))
	if err == nil {
		_ = s.release(atOnce, n)
	}
	return err
}

func (s *session) checkCycle(from *node, oldName string, to *node) error {
	s.srv.tree.RLock()
	defer s.srv.tree.RUnlock()
	if to.isBelow(from, oldName) {
		return errCycle
	}
	return nil
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
