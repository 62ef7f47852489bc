package ninep

import (
	"context"
	"strings"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"

	"vmfs/ninep/wire"
)

// runAttach gives the fid a root. UserAttachers may have to look users up, so
// they get a goroutine.
func runAttach(r *request) error {
	s := r.s
	if r.Fid2 != wire.NoFid {
		return errNoAuth
	}
	if err := s.checkNew(r.Fid); err != nil {
		return err
	}
	f := newFid(r.Fid, nil)
	f.state = fidAttaching
	s.insert(f)
	r.f = f
	if _, ok := s.srv.Attacher.(UserAttacher); ok {
		return s.laterOr(r, nil, execAttach, undoAttach)
	}
	return execAttach(atOnce, r)
}

func undoAttach(r *request) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.s.fids.del(r.f.num)
}

// execAttach finds the root for a fid and readies it.
func execAttach(ctx context.Context, r *request) (err error) {
	defer func() {
		if r.f.node == nil {
			undoAttach(r)
		}
	}()
	s := r.s
	var file p9.File
	names := strings.FieldsFunc(r.Name2, func(c rune) bool { return c == '/' })
	if ua, ok := s.srv.Attacher.(UserAttacher); ok {
		file, err = ua.AttachUser(ctx, s.c.caller, r.Name, r.UID, r.Name2)
		names = nil
	} else {
		file, err = s.srv.Attacher.Attach()
	}
	if err != nil {
		return err
	}
	n, err := s.rootNode(file)
	if err != nil {
		return err
	}
	for _, name := range names {
		s.srv.tree.RLock()
		next, err := s.step(n, name, new([1]string))
		s.srv.tree.RUnlock()
		_ = s.release(atOnce, n)
		if err != nil {
			return err
		}
		n = next
	}
	n.top = true
	r.QID = n.qid
	s.mu.Lock()
	r.f.node, r.f.state = n, fidClosed
	s.mu.Unlock()
	return nil
}

func (s *session) rootNode(file p9.File) (*node, error) {
	s.srv.tree.RLock()
	defer s.srv.tree.RUnlock()
	qid, _, attr, err := file.GetAttr(p9.AttrMaskAll)
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	if attr.Mode.IsDir() {
		qid.Type |= p9.TypeDir
	}
	return newNode(file, qid, nil, "/"), nil
}

// runWalk makes fid2 a file that is reached from fid by the names.
func runWalk(r *request) error {
	s, f := r.s, r.f
	if len(r.Names) > wire.MaxNames {
		return errWalkNames
	}
	same := r.Fid == r.Fid2
	if !same {
		if err := s.checkNew(r.Fid2); err != nil {
			return err
		}
	}
	if err := s.checkWalk(f, same); err != nil {
		return err
	}
	old, err := s.walkTo(f, r)
	if old != nil {
		_ = s.release(atOnce, old)
	}
	if err != nil && s.is(wire.Plan9) && errnoOf(err) == linux.ENOENT {
		return linux.ENOENT // the words that clients know: a lookup that fails is not an error to them
	}
	return err
}

// walkTo walks, and gives the fid what was reached while the tree is still as it
// was: a change after that finds the node with the fid. old is the node that the
// fid had, if it had one.
func (s *session) walkTo(f *fid, r *request) (old *node, err error) {
	s.srv.tree.RLock()
	defer s.srv.tree.RUnlock()
	n, err := s.walk(f.node, r)
	if err != nil || n == nil {
		return nil, err
	}
	if r.Fid != r.Fid2 {
		s.insert(newFid(r.Fid2, n))
		return nil, nil
	}
	return s.replace(f, n), nil
}

// replace makes a fid another node's, and gives the one it had.
func (s *session) replace(f *fid, n *node) (old *node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, f.node = f.node, n
	return old
}

// checkWalk refuses walks from fids that are in use otherwise. Linux walks from
// open fids, which 9P2000 does not allow.
func (s *session) checkWalk(f *fid, same bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case f.state == fidClosed:
		if same && f.busy > 0 {
			return errBusyFid
		}
		return nil
	case same || s.is(wire.Plan9):
		return errWalkOpen
	}
	return nil
}

// walk gives the node that the names lead to, and the qids on the way. It is
// nil, without an error, if only some of them could be walked. Server.tree must
// be held.
func (s *session) walk(n *node, r *request) (*node, error) {
	if len(r.Names) == 0 {
		return s.clone(n)
	}
	n.refs.Add(1)
	for _, name := range r.Names {
		next, err := s.step(n, name, &s.c.one)
		_ = s.release(atOnce, n) // the next one holds it now
		if err != nil {
			if len(r.QIDs) > 0 && !s.google {
				return nil, nil
			}
			return nil, err
		}
		r.QIDs = append(r.QIDs, s.sent(next.qid))
		n = next
	}
	return n, nil
}

// runClunk forgets a fid. What its requests under way still write is written
// first; what they wait to read is not waited for.
func runClunk(r *request) error { return r.s.endFid(r, execClunk) }

func execClunk(ctx context.Context, r *request) error {
	return r.s.closeFid(ctx, r.f)
}

// runRemove is a clunk that removes the file before.
func runRemove(r *request) error { return r.s.endFid(r, execRemove) }

func (s *session) endFid(r *request, exec func(context.Context, *request) error) error {
	f, err := s.take(r, exec)
	if err != nil || f == nil {
		return err
	}
	if !s.endsSlowly(f, r.Type) {
		err = exec(atOnce, r)
		f.recycle()
		return err
	}
	if err := s.later(r, nil, exec); err == errLater {
		return err
	}
	// No room for a goroutine, and the fid must go.
	s.c.endTurn()
	ctx, cancel := context.WithTimeout(s.ctx, s.srv.limits.Hangup)
	defer cancel()
	err = s.closeFid(ctx, f)
	if r.Type == wire.Tremove {
		err = errRequests
	}
	return err
}

// endsSlowly reports whether a Tclunk or Tremove of a fid can block.
func (s *session) endsSlowly(f *fid, by wire.Type) bool {
	if f.rclose || f.node.closesSlowly() {
		return true
	}
	if by != wire.Tremove {
		return false
	}
	parent := s.parentOf(f.node)
	if parent == nil {
		return false
	}
	defer func() { _ = s.release(atOnce, parent) }()
	_, ok := parent.file.(UnlinkerContext)
	return ok
}

// take removes a fid from the table for a request that ends it. If requests
// are under way on it the request waits for them: then there is no fid, and
// errLater.
func (s *session) take(r *request, exec func(context.Context, *request) error) (*fid, error) {
	s.mu.Lock()
	f, err := s.anyFid(r.Fid)
	if err != nil {
		s.mu.Unlock()
		return nil, err
	}
	s.fids.del(r.Fid)
	r.f = f
	if f.busy == 0 {
		s.mu.Unlock()
		return f, nil
	}
	ar := s.detach(r, exec)
	f.closing = ar
	// It holds nothing that the limit is for: the requests it waits for do.
	s.running++
	s.enter(ar.Tag, ar)
	before := s.underWay(f)
	s.mu.Unlock()
	for _, q := range before {
		if q.Type != wire.Twrite {
			q.cancel(errClunked)
		}
	}
	return nil, errLater
}

// underWay gives the requests that a fid waits for before it can end. s.mu is held.
func (s *session) underWay(f *fid) (list []*request) {
	for _, q := range s.tags {
		if q.f == f && q != f.closing {
			list = append(list, q)
		}
	}
	return list
}

// closeFid ends a fid that is not in the table any more.
func (s *session) closeFid(ctx context.Context, f *fid) error {
	var err error
	if f.xattr != nil {
		err = s.storeXattr(f)
		_ = s.holdFor(&f.xattr.held, 0)
		f.xattr = nil
	}
	_ = s.holdFor(&f.dir.held, 0)
	_ = s.holdFor(&f.kept, 0)
	if f.rclose && f.node.opened {
		_ = s.unlink(ctx, f.node)
	}
	if cerr := s.release(ctx, f.node); err == nil {
		err = cerr
	}
	s.discharge(f)
	return err
}
