package ninep

import (
	"context"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"

	"vmfs/ninep/wire"
)

// wstatError refuses a change that stat(5) does not allow.
func wstatError(text string) error {
	return fault(linux.EPERM, "wstat: cannot change "+text+": operation not permitted")
}

// runStat describes a file.
func runStat(r *request) error {
	r.Stat = &r.s.c.stat
	r.s.srv.tree.RLock()
	defer r.s.srv.tree.RUnlock()
	return r.s.statOf(r.f.node, r.Stat)
}

// runWstat changes a file's name and attributes: all that is asked for, or
// nothing.
func runWstat(r *request) error {
	s, f := r.s, r.f
	if *r.Stat == wire.Untouched {
		return s.syncFor(f, r)
	}
	_, slow := f.node.file.(AttrSetterContext)
	if parent := s.parentOf(f.node); parent != nil {
		_, renames := parent.file.(RenamerContext)
		slow = slow || renames && r.Stat.Name != ""
		_ = s.release(atOnce, parent)
	}
	if slow {
		return s.later(r, nil, execWstat)
	}
	return execWstat(atOnce, r)
}

// syncFor is what a wstat that changes nothing is for: it makes sure that the
// file is on stable storage.
func (s *session) syncFor(f *fid, r *request) error {
	s.mu.Lock()
	open := f.state == fidOpen
	s.mu.Unlock()
	if !open || f.node.isDir() {
		return nil
	}
	return fsync.run(r)
}

// wstat is a Twstat that was found to be allowed.
type wstat struct {
	mask    p9.SetAttrMask
	attr    p9.SetAttr
	oldName string
	newName string // empty if the name stays
}

func execWstat(ctx context.Context, r *request) error {
	s, n := r.s, r.f.node
	w, err := s.planWstat(n, r.Stat)
	if err != nil {
		return err
	}
	if w.newName != "" {
		if err := s.renameHere(ctx, n, w.newName); err != nil {
			return err
		}
	}
	if w.mask == (p9.SetAttrMask{}) {
		return nil
	}
	err = s.setAttr(ctx, n, w.mask, w.attr)
	if err != nil && w.newName != "" {
		// The end of the request must not stop what takes it back.
		if back := s.renameHere(context.WithoutCancel(ctx), n, w.oldName); back != nil {
			s.c.log.Error("wstat failed, and the file keeps its new name", "name", w.newName, "old name", w.oldName, "err", back)
		}
	}
	return err
}

// renameHere gives a file another name in its directory.
func (s *session) renameHere(ctx context.Context, n *node, newName string) error {
	parent := s.parentOf(n)
	defer func() { _ = s.release(atOnce, parent) }()
	return s.rename(ctx, n, parent, "", parent, newName)
}

// planWstat checks a Twstat against what is, before anything is changed.
func (s *session) planWstat(n *node, st *wire.Stat) (w wstat, err error) {
	s.srv.tree.RLock()
	defer s.srv.tree.RUnlock()
	if err := n.canChange(); err != nil {
		return w, err
	}
	var now wire.Stat
	if err := s.statOf(n, &now); err != nil {
		return w, err
	}
	if err := unchangeable(st, &now); err != nil {
		return w, err
	}
	if err := s.planMode(&w, st, &now); err != nil {
		return w, err
	}
	if err := s.planOwner(&w, st, &now); err != nil {
		return w, err
	}
	switch {
	case st.Length == wire.Untouched.Length:
	case now.Mode&wire.DMDIR == 0:
		w.mask.Size, w.attr.Size = true, st.Length
	case st.Length != 0:
		return w, wstatError("the length of a directory")
	}
	if st.Atime != wire.DontTouch {
		w.mask.ATime, w.mask.ATimeNotSystemTime, w.attr.ATimeSeconds = true, true, uint64(st.Atime)
	}
	if st.Mtime != wire.DontTouch {
		w.mask.MTime, w.mask.MTimeNotSystemTime, w.attr.MTimeSeconds = true, true, uint64(st.Mtime)
	}
	return w, s.planName(&w, n, st, &now)
}

// unchangeable refuses changes of what the server alone decides.
func unchangeable(st, now *wire.Stat) error {
	switch {
	case st.Type != wire.Untouched.Type && st.Type != now.Type:
		return wstatError("type")
	case st.Dev != wire.Untouched.Dev && st.Dev != now.Dev:
		return wstatError("dev")
	case st.QID.Type != wire.Untouched.QID.Type && st.QID.Type != now.QID.Type,
		st.QID.Version != wire.Untouched.QID.Version && st.QID.Version != now.QID.Version,
		st.QID.Path != wire.Untouched.QID.Path && st.QID.Path != now.QID.Path:
		return wstatError("qid")
	case st.MUID != "" && st.MUID != now.MUID, st.NMUID != wire.DontTouch && st.NMUID != now.NMUID:
		return wstatError("muid")
	case st.Extension != "" && st.Extension != now.Extension:
		return wstatError("extension")
	}
	return nil
}

func (s *session) planMode(w *wstat, st, now *wire.Stat) error {
	if st.Mode == wire.DontTouch || st.Mode == now.Mode {
		return nil
	}
	perm := uint32(0o777)
	if s.is(wire.Unix) {
		perm |= wire.DMSETUID | wire.DMSETGID | wire.DMSETVTX
	}
	if st.Mode&^perm != now.Mode&^perm {
		if (st.Mode^now.Mode)&wire.DMDIR != 0 {
			return wstatError("the directory bit")
		}
		return wstatError("mode bits other than permissions")
	}
	mode := st.Mode & 0o777
	if s.is(wire.Unix) {
		mode |= unixBits(st.Mode)
	}
	w.mask.Permissions, w.attr.Permissions = true, p9.FileMode(mode)
	return nil
}

// planOwner: groups change in every dialect, users in 9P2000.u alone.
func (s *session) planOwner(w *wstat, st, now *wire.Stat) (err error) {
	gid := st.NGID
	if gid == wire.DontTouch && st.GID != "" && st.GID != now.GID {
		if gid, err = s.srv.idOf(UserNames.GroupID, "group", st.GID); err != nil {
			return err
		}
	}
	if gid != wire.DontTouch && gid != now.NGID {
		w.mask.GID, w.attr.GID = true, p9.GID(gid)
	}
	uid := st.NUID
	if uid == wire.DontTouch && st.UID != "" && st.UID != now.UID {
		if !s.is(wire.Unix) {
			return wstatError("the owner")
		}
		if uid, err = s.srv.idOf(UserNames.UserID, "user", st.UID); err != nil {
			return err
		}
	}
	if uid != wire.DontTouch && uid != now.NUID {
		w.mask.UID, w.attr.UID = true, p9.UID(uid)
	}
	return nil
}

// planName: a name may change to one that the directory does not have.
func (s *session) planName(w *wstat, n *node, st, now *wire.Stat) error {
	if st.Name == "" || st.Name == now.Name {
		return nil
	}
	if n.isRoot() {
		return errRenameRoot
	}
	if err := checkName(st.Name); err != nil {
		return err
	}
	other, err := s.step(n.parent, st.Name, new([1]string))
	if err == nil {
		_ = s.release(atOnce, other)
		return linux.EEXIST
	}
	if errnoOf(err) != linux.ENOENT {
		return err
	}
	w.oldName, w.newName = n.name, st.Name
	return nil
}
