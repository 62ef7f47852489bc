package ninep

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"
)

// node is one File of the tree. A fid holds one, and so does each node that
// was walked to from it: parents are there as long as their children, for the
// methods that need them (Renamed, and UnlinkAt for a Tremove). Nodes belong to
// one session.
type node struct {
	file p9.File
	qid  p9.QID
	refs atomic.Int32

	opened bool // by its fid, which is the only one to open it
	top    bool // what a client attached to: to it there is nothing above, even if there is a parent

	// Guarded by Server.tree.
	parent  *node // nil for a root
	name    string
	deleted bool   // the name was unlinked, here or in a parent
	visit   uint64 // the last change of the tree that looked at it
	moved   bool   // what that change did to it
}

// atOnce is the context of what the reading goroutine does itself. Nothing
// that is given it may block.
var atOnce = context.Background()

var nodePool = sync.Pool{New: func() any { return new(node) }}

// newNode makes a node with one reference. It takes its own of the parent.
func newNode(file p9.File, qid p9.QID, parent *node, name string) *node {
	n := nodePool.Get().(*node)
	n.file, n.qid, n.parent, n.name = file, qid, parent, name
	n.refs.Store(1)
	if parent != nil {
		parent.refs.Add(1)
	}
	return n
}

func (n *node) isDir() bool     { return n.qid.Type&p9.TypeDir != 0 }
func (n *node) isSymlink() bool { return n.qid.Type&p9.TypeSymlink != 0 }

// closesSlowly reports whether dropping the last reference can block.
func (n *node) closesSlowly() bool {
	if !n.opened {
		return false
	}
	_, ok := n.file.(CloserContext)
	return ok
}

// release drops a reference, and closes the file with the last one. It holds
// no lock: a node without references is nobody else's.
func (s *session) release(ctx context.Context, n *node) error {
	var first error
	for child := true; n != nil && n.refs.Add(-1) == 0; child = false {
		if err := s.closeFile(ctx, n); err != nil && child {
			first = err
		}
		parent := n.parent
		n.file, n.parent, n.name = nil, nil, ""
		n.opened, n.top, n.deleted, n.moved, n.visit = false, false, false, false, 0
		nodePool.Put(n)
		n = parent
	}
	return first
}

func (s *session) closeFile(ctx context.Context, n *node) (err error) {
	defer s.recovered("close", &err)
	if n.closesSlowly() {
		file := n.file.(CloserContext)
		if abandoned, ok := n.file.(AbandonerContext); ok && s.ended {
			return abandoned.AbandonContext(ctx)
		}
		if ctx != atOnce {
			return file.CloseContext(ctx)
		}
		// A directory that was open, and outlived its fid by its children.
		s.wg.Go(func() {
			var err error
			defer s.recovered("close", &err)
			ctx, cancel := context.WithTimeout(context.Background(), s.srv.limits.Hangup)
			defer cancel()
			if err = file.CloseContext(ctx); err != nil {
				s.c.log.Debug("close failed", "err", err)
			}
		})
		return nil
	}
	return n.file.Close()
}

// checkName refuses what cannot be the name of a file in a directory.
func checkName(name string) error {
	if name == "" || name == "." || name == ".." {
		return errBadName
	}
	for i := range len(name) {
		if name[i] == '/' || name[i] == 0 {
			return errBadName
		}
	}
	return nil
}

// clone gives a node for the same file. Server.tree must be held.
func (s *session) clone(n *node) (*node, error) {
	_, file, err := n.file.Walk(nil)
	if err != nil {
		return nil, err
	}
	c := newNode(file, n.qid, n.parent, n.name)
	c.deleted, c.top = n.deleted, n.top
	return c, nil
}

// isRoot reports whether a node is the root of a tree as its client sees it.
func (n *node) isRoot() bool { return n.parent == nil || n.top }

// up gives a node for the directory above, or the root again. Server.tree must
// be held. Its QID's version is the one of now, not that of the walk down.
func (s *session) up(from *node) (*node, error) {
	if !from.isRoot() {
		from = from.parent
	}
	n, err := s.clone(from)
	if err == nil && !s.isLinux() {
		if qid, _, _, err := n.file.GetAttr(p9.AttrMask{}); err == nil {
			n.qid.Version = qid.Version
		}
	}
	return n, err
}

// step walks one name. Server.tree must be held; one is the caller's to
// scribble on.
func (s *session) step(from *node, name string, one *[1]string) (*node, error) {
	switch {
	case !from.isDir():
		return nil, linux.ENOTDIR
	case from.deleted:
		return nil, linux.ENOENT
	case name == "..":
		return s.up(from)
	case name == ".": // which walk(5) has no use for, and every server walks
		return s.clone(from)
	}
	if err := checkName(name); err != nil {
		return nil, err
	}
	if w, ok := from.file.(OneWalker); ok {
		qid, file, err := w.WalkOne(name)
		if err != nil {
			return nil, err
		}
		return newNode(file, qid, from, name), nil
	}
	one[0] = name
	qids, file, err := from.file.Walk(one[:])
	if err != nil {
		return nil, err
	}
	if len(qids) != 1 {
		_ = file.Close()
		return nil, fault(linux.EIO, "a walk of one name gave no qid, or several: i/o error")
	}
	return newNode(file, qids[0], from, name), nil
}

// forEachNode calls fn once for every node of every session, parents before
// their children, with the session's lock held. Server.tree must be held for
// writing. Changes of the tree are rare beside walks, so it is they who search
// and not the walks that keep an index.
func (srv *Server) forEachNode(fn func(s *session, n *node)) {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	srv.visits++
	for c := range srv.conns {
		s := c.sess.Load()
		if s == nil {
			continue
		}
		s.mu.Lock()
		s.fids.each(func(f *fid) {
			if f.node != nil {
				srv.visitNode(s, f.node, fn)
			}
		})
		s.mu.Unlock()
	}
}

func (srv *Server) visitNode(s *session, n *node, fn func(*session, *node)) {
	if n.visit == srv.visits {
		return
	}
	n.visit = srv.visits
	n.moved = false
	if n.parent != nil {
		srv.visitNode(s, n.parent, fn)
	}
	fn(s, n)
}

// nodeOf finds a node for a file by its qid. The session must be locked, and
// Server.tree held.
func (s *session) nodeOf(path uint64) *node {
	var found *node
	s.fids.each(func(f *fid) {
		for n := f.node; n != nil && found == nil; n = n.parent {
			if n.qid.Path == path && !n.deleted {
				found = n
			}
		}
	})
	return found
}

// isEntry reports whether a node was walked to by a name in the directory.
func (n *node) isEntry(dir *node, name string) bool {
	return n.parent != nil && n.name == name && n.parent.qid.Path == dir.qid.Path && !n.deleted
}

// unlinked marks what hung on a name that is gone. Server.tree must be held for
// writing, since before the removal or else the file that was removed is known:
// another one can have the name by now.
func (srv *Server) unlinked(dir *node, name string, was fileID) {
	srv.forEachNode(func(_ *session, n *node) {
		if n.isEntry(dir, name) && was.maybe(n) || n.parent != nil && n.parent.deleted {
			n.deleted = true
		}
	})
}

// fileID tells which file had a name. The zero value is any.
type fileID struct {
	path  uint64
	known bool
}

func (id fileID) maybe(n *node) bool { return !id.known || n.qid.Path == id.path }

// lookUp finds which file has a name now, if that can be told.
func (s *session) lookUp(dir *node, name string) fileID {
	s.srv.tree.RLock()
	defer s.srv.tree.RUnlock()
	return s.idOf(dir, name)
}

// idOf is lookUp for who holds Server.tree.
func (s *session) idOf(dir *node, name string) (id fileID) {
	n, err := s.step(dir, name, new([1]string))
	if err != nil {
		return id
	}
	id = fileID{n.qid.Path, true}
	_ = s.release(atOnce, n)
	return id
}

// renamed makes the nodes follow a rename and tells their files. Server.tree
// must be held for writing, since before the rename if that was a plain one.
func (srv *Server) renamed(by *session, oldDir *node, oldName string, newDir *node, newName string) {
	var drop []*node // old parents, closed when no session is locked
	srv.forEachNode(func(s *session, n *node) {
		switch {
		case n.parent == nil:
			return
		case n.isEntry(newDir, newName):
			n.deleted = true // the rename put another file in its place
		case n.isEntry(oldDir, oldName):
			switch {
			case oldDir.qid.Path == newDir.qid.Path:
			case s == by:
				newDir.refs.Add(1)
				drop = append(drop, n.parent)
				n.parent = newDir
			default:
				// The new directory's File acts for another client, so only a
				// node of this session can be the parent. Without one, the
				// name is lost to this client.
				dir := s.nodeOf(newDir.qid.Path)
				if dir == nil {
					n.deleted = true
					return
				}
				dir.refs.Add(1)
				drop = append(drop, n.parent)
				n.parent = dir
			}
			n.name, n.moved = newName, true
			n.file.Renamed(n.parent.file, newName)
		case n.parent.deleted:
			n.deleted = true
		case n.parent.moved:
			n.moved = true
			n.file.Renamed(n.parent.file, n.name)
		}
	})
	for _, n := range drop {
		_ = by.release(atOnce, n)
	}
}
