package ninep

import (
	"context"

	"github.com/hugelgupf/p9/linux"
)

// execRemove removes a fid's file, and the fid whatever comes of it.
func execRemove(ctx context.Context, r *request) error {
	err := ctx.Err()
	switch {
	case r.f.xattr != nil: // which has no name of its own that could be removed
		r.f.xattr.store = false
		err = errXattrFid
	case err == nil:
		err = r.s.unlink(ctx, r.f.node)
	}
	if cerr := r.s.closeFid(ctx, r.f); err == nil {
		err = cerr
	}
	return err
}

// parentOf gives the parent, with a reference of the caller's; nil for a root.
func (s *session) parentOf(n *node) *node {
	s.srv.tree.RLock()
	defer s.srv.tree.RUnlock()
	if n.isRoot() {
		return nil
	}
	n.parent.refs.Add(1)
	return n.parent
}

// atRemoveDir is unlinkat(2)'s AT_REMOVEDIR.
const atRemoveDir = 0x200

// unlink removes a node's name from its directory.
func (s *session) unlink(ctx context.Context, n *node) (err error) {
	defer s.recovered("remove", &err)
	var flags uint32
	if n.isDir() {
		flags = atRemoveDir
	}
	parent := s.parentOf(n)
	if parent == nil {
		return errRemoveRoot
	}
	defer func() { _ = s.release(atOnce, parent) }()
	if ctx == atOnce {
		ctx = s.ctx
	}
	return s.unlinkName(ctx, n, parent, "", flags)
}

// unlinkName removes a name from a directory: the one that n has there if n is not nil,
// unless another file has it by now.
func (s *session) unlinkName(ctx context.Context, n, dir *node, name string, flags uint32) (err error) {
	tree := &s.srv.tree
	if u, ok := dir.file.(UnlinkerContext); ok {
		if n != nil {
			if name, err = s.nameOf(n); err != nil {
				return err
			}
		}
		was := s.lookUp(dir, name)
		if n != nil {
			if !was.maybe(n) {
				return linux.ENOENT
			}
			was = fileID{n.qid.Path, true}
		}
		if err := u.UnlinkAtContext(ctx, name, flags); err != nil {
			return err
		}
		tree.Lock()
		defer tree.Unlock()
		s.srv.unlinked(dir, name, was)
		return nil
	}
	tree.Lock()
	defer tree.Unlock()
	if n != nil {
		if n.deleted || n.parent != dir || !s.idOf(dir, n.name).maybe(n) {
			return linux.ENOENT
		}
		name = n.name
	}
	if err := dir.canHold(); err != nil {
		return err
	}
	if err := dir.file.UnlinkAt(name, flags); err != nil {
		return err
	}
	s.srv.unlinked(dir, name, fileID{})
	return nil
}

func (s *session) nameOf(n *node) (string, error) {
	s.srv.tree.RLock()
	defer s.srv.tree.RUnlock()
	if n.deleted {
		return "", linux.ENOENT
	}
	return n.name, nil
}

// canChange refuses changes of what is gone. Server.tree must be held.
func (n *node) canChange() error {
	if n.deleted {
		return linux.ENOENT
	}
	return nil
}

// canHold refuses new names in what is no directory, or gone. Server.tree must
// be held.
func (n *node) canHold() error {
	if !n.isDir() {
		return linux.ENOTDIR
	}
	return n.canChange()
}
