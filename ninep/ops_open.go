package ninep

import (
	"context"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"
)

// Flags of open(2) as Linux/amd64 numbers them, which is what 9P2000.L sends.
const (
	oTrunc     = 0o1000
	oDirectory = 0o200000
)

// runOpen opens a fid. r.Flags are those of open(2).
func runOpen(r *request) error {
	s := r.s
	f, err := s.fid(r.Fid)
	if err != nil {
		return err
	}
	flags := p9.OpenFlags(r.Flags)
	if err := s.beginOpen(f, flags); err != nil {
		return err
	}
	r.f = f
	if _, ok := f.node.file.(OpenerContext); ok {
		return s.laterOr(r, nil, execOpen, undoOpen)
	}
	ok := false
	defer func() {
		if !ok {
			s.endOpen(f, fidClosed)
		}
	}()
	if r.QID, r.Count, err = s.openPlain(f.node, flags); err != nil {
		return err
	}
	ok = true
	s.opened(r, f, flags)
	return nil
}

// beginOpen checks that a fid can be opened, and reserves it.
func (s *session) beginOpen(f *fid, flags p9.OpenFlags) error {
	n := f.node
	switch {
	case f.xattr != nil:
		return errXattrFid
	case n.isSymlink():
		return linux.ELOOP
	case n.isDir() && (flags.Mode() != p9.ReadOnly || flags&oTrunc != 0):
		return errIsDir
	case !n.isDir() && flags&oDirectory != 0:
		return errNotDir
	case flags.Mode() == p9.OpenFlagsModeMask:
		return fault(linux.EINVAL, "bad open mode")
	}
	return s.reserve(f, fidOpening)
}

// beginCreate checks that a fid is a directory's in which a file can be made
// and whose place it can take, and reserves it.
func (s *session) beginCreate(f *fid) error {
	if f.xattr != nil {
		return errXattrFid
	}
	s.mu.Lock()
	busy := f.busy > 0 && f.state == fidClosed
	s.mu.Unlock()
	if busy {
		return errBusyFid
	}
	return s.reserve(f, fidCreating)
}

func (s *session) reserve(f *fid, as fidState) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch f.state {
	case fidOpen:
		return errOpen
	case fidOpening:
		return errOpening
	}
	f.state = as
	return nil
}

func undoOpen(r *request) { r.s.endOpen(r.f, fidClosed) }

func (s *session) endOpen(f *fid, state fidState) {
	s.mu.Lock()
	f.state = state
	s.mu.Unlock()
}

// opened readies a fid for reading and writing. The client is never told of an I/O
// unit that does not fit a message.
func (s *session) opened(r *request, f *fid, flags p9.OpenFlags) {
	r.Count = min(r.Count, s.msize-ioHeader)
	n := f.node
	n.opened = true
	f.flags = flags
	f.reader, _ = n.file.(ReaderContext)
	f.writer, _ = n.file.(WriterContext)
	s.endOpen(f, fidOpen)
}

func (s *session) openPlain(n *node, flags p9.OpenFlags) (p9.QID, uint32, error) {
	s.srv.tree.RLock()
	defer s.srv.tree.RUnlock()
	if err := n.canChange(); err != nil {
		return p9.QID{}, 0, err
	}
	return n.file.Open(flags)
}

func execOpen(ctx context.Context, r *request) (err error) {
	s, f := r.s, r.f
	ok := false
	defer func() {
		if !ok {
			s.endOpen(f, fidClosed)
		}
	}()
	if _, err := s.nameOf(f.node); err != nil {
		return err
	}
	r.QID, r.Count, err = f.node.file.(OpenerContext).OpenContext(ctx, p9.OpenFlags(r.Flags))
	if err != nil {
		return err
	}
	ok = true
	s.opened(r, f, p9.OpenFlags(r.Flags))
	return nil
}

// runCreate makes a file in the fid's directory and makes the fid it, open.
func runCreate(r *request) error {
	s := r.s
	f, err := s.dirOf(r.Fid, r.Name)
	if err != nil {
		return err
	}
	if err := s.beginCreate(f); err != nil {
		return err
	}
	r.f, r.Mode = f, r.Mode&permissions
	if _, ok := f.node.file.(CreatorContext); ok {
		return s.laterOr(r, nil, execCreate, undoOpen)
	}
	return execCreate(atOnce, r)
}

func execCreate(ctx context.Context, r *request) error {
	s, f := r.s, r.f
	ok := false
	defer func() {
		if !ok {
			s.endOpen(f, fidClosed)
		}
	}()
	dir, err := s.create(ctx, f, r)
	if err != nil {
		return err
	}
	ok = true
	_ = s.release(atOnce, dir)
	s.opened(r, f, p9.OpenFlags(r.Flags))
	return nil
}

// create makes a file in a fid's directory and makes the fid the file's, before
// anything else can happen to the name. It gives the directory.
func (s *session) create(ctx context.Context, f *fid, r *request) (dir *node, err error) {
	var (
		flags, perm = p9.OpenFlags(r.Flags), p9.FileMode(r.Mode)
		file        p9.File
	)
	dir = f.node
	if c, ok := dir.file.(CreatorContext); ok {
		file, r.QID, r.Count, err = c.CreateContext(ctx, r.Name, flags, perm, p9.UID(r.UID), p9.GID(r.GID))
		s.srv.tree.RLock()
		defer s.srv.tree.RUnlock()
	} else {
		s.srv.tree.Lock()
		defer s.srv.tree.Unlock()
		if err := dir.canHold(); err != nil {
			return nil, err
		}
		file, r.QID, r.Count, err = dir.file.Create(r.Name, flags, perm, p9.UID(r.UID), p9.GID(r.GID))
	}
	if err != nil {
		return nil, err
	}
	return s.replace(f, newNode(file, r.QID, dir, r.Name)), nil
}
