package ninep

import (
	"context"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"

	"vmfs/ninep/wire"
)

// Flags of open(2) as Linux/amd64 numbers them, which is what 9P2000.L sends.
const (
	oExcl      = 0o200
	oTrunc     = 0o1000
	oDirectory = 0o200000
)

// runOpen opens a fid. r.Flags are those of open(2).
func runOpen(r *request) error {
	if err := r.f.node.checkOpen(p9.OpenFlags(r.Flags)); err != nil {
		return err
	}
	if err := r.s.reserve(r.f, fidOpening); err != nil {
		return err
	}
	return r.s.open(r, nil)
}

// checkOpen refuses ways to open a file that its kind does not have.
func (n *node) checkOpen(flags p9.OpenFlags) error {
	switch {
	case n.isSymlink():
		return linux.ELOOP
	case n.isDir() && (flags.Mode() != p9.ReadOnly || flags&oTrunc != 0):
		return linux.EISDIR
	case !n.isDir() && flags&oDirectory != 0:
		return linux.ENOTDIR
	case flags.Mode() == p9.OpenFlagsModeMask:
		return fault(linux.EINVAL, "bad open mode")
	}
	return nil
}

// beginCreate checks that a fid is a directory's in which a file can be made
// and whose place it can take, and reserves it.
func (s *session) beginCreate(f *fid) error {
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

// open opens the file of a fid that is reserved: in a goroutine if that can block. If the
// fid was a directory's before, it is that again if the file cannot be opened.
func (s *session) open(r *request, dir *node) error {
	if _, ok := r.f.node.file.(OpenerContext); !ok {
		return s.openAs(atOnce, r, dir)
	}
	return s.laterOr(r, nil, func(ctx context.Context, r *request) error {
		return s.openAs(ctx, r, dir)
	}, func(r *request) { s.notOpened(r.f, dir) })
}

func (s *session) openAs(ctx context.Context, r *request, dir *node) (err error) {
	f, flags := r.f, p9.OpenFlags(r.Flags)
	ok := false
	defer func() {
		if !ok {
			s.discharge(f)
			s.notOpened(f, dir)
		}
	}()
	if err := s.charge(f, flags); err != nil {
		return err
	}
	r.QID, r.Count, err = s.openNode(ctx, f.node, flags)
	if r.Type == wire.Tcreate && err != nil && errnoOf(err) == linux.EACCES {
		// A directory that was made just now, and open(5) does not ask if its permissions
		// let it be read: who may not will be told so by what he reads.
		r.QID, r.Count, err = f.node.qid, 0, nil
	}
	if err != nil {
		return err
	}
	ok = true
	_ = s.release(atOnce, dir)
	s.opened(r, f, flags)
	return nil
}

// notOpened leaves a fid as it was before open.
func (s *session) notOpened(f *fid, dir *node) {
	if dir != nil {
		_ = s.release(atOnce, s.replace(f, dir))
	}
	s.endOpen(f, fidClosed)
}

// stepInto makes a fid the file's that has a name in its directory, which it gives: before
// anything else can happen to the name.
func (s *session) stepInto(f *fid, name string) (dir *node, err error) {
	s.srv.tree.RLock()
	defer s.srv.tree.RUnlock()
	n, err := s.step(f.node, name, new([1]string))
	if err != nil {
		return nil, err
	}
	return s.replace(f, n), nil
}

func (s *session) openNode(ctx context.Context, n *node, flags p9.OpenFlags) (p9.QID, uint32, error) {
	if o, ok := n.file.(OpenerContext); ok {
		if _, err := s.nameOf(n); err != nil {
			return p9.QID{}, 0, err
		}
		return o.OpenContext(ctx, flags)
	}
	s.srv.tree.RLock()
	defer s.srv.tree.RUnlock()
	if err := n.canChange(); err != nil {
		return p9.QID{}, 0, err
	}
	return n.file.Open(flags)
}

// runCreate makes a file in the fid's directory and makes the fid it, open. A file
// that is there is opened, as open(2) does it.
func runCreate(r *request) error {
	s, f := r.s, r.f
	if err := s.beginCreate(f); err != nil {
		return err
	}
	r.Mode &= permissions
	if dir, err := s.stepInto(f, r.Name); err == nil {
		switch err = f.node.checkOpen(p9.OpenFlags(r.Flags)); {
		case r.Flags&oExcl != 0, s.google: // p9's Create is exclusive
			err = linux.EEXIST
		case f.node.isDir():
			err = linux.EISDIR
		}
		if err != nil {
			s.notOpened(f, dir)
			return err
		}
		return s.open(r, dir)
	}
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
