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
	if _, slow := parent.file.(UnlinkerContext); !slow {
		return s.unlinkPlain(n, parent, flags)
	}
	if ctx == atOnce {
		ctx = s.ctx
	}
	name, err := s.nameOf(n)
	if err != nil {
		return err
	}
	if !s.lookUp(parent, name).maybe(n) {
		return linux.ENOENT // another file has the name
	}
	return s.unlinkLater(ctx, parent, name, flags, fileID{n.qid.Path, true})
}

func (s *session) nameOf(n *node) (string, error) {
	s.srv.tree.RLock()
	defer s.srv.tree.RUnlock()
	if n.deleted {
		return "", linux.ENOENT
	}
	return n.name, nil
}

func (s *session) unlinkPlain(n, parent *node, flags uint32) error {
	s.srv.tree.Lock()
	defer s.srv.tree.Unlock()
	if n.deleted || n.parent != parent || !s.idOf(parent, n.name).maybe(n) {
		return linux.ENOENT
	}
	if err := parent.file.UnlinkAt(n.name, flags); err != nil {
		return err
	}
	s.srv.unlinked(parent, n.name, fileID{})
	return nil
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
