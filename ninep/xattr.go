package ninep

import (
	"errors"
	"strings"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"
)

// xattr is an extended attribute that a fid reads or writes.
type xattr struct {
	name  string
	store bool // written when the fid is clunked
	flags p9.XattrFlags
	size  uint64 // what will be written
	data  []byte
	held  int // see session.hold
}

// maxXattr is what Linux lets an attribute have.
const maxXattr = 64 << 10

// xattrErr says that there are no attributes in the way that Linux takes for
// granted.
func xattrErr(err error) error {
	if errors.Is(err, linux.ENOSYS) {
		return errNoXattr
	}
	return err
}

// runXattrWalk makes fid2 an attribute's value, or the list of names.
func runXattrWalk(r *request) error {
	s, f := r.s, r.f
	if err := s.checkNew(r.Fid2); err != nil {
		return err
	}
	x := &xattr{name: r.Name}
	var err error
	if x.data, err = s.getXattr(f.node, r.Name); err != nil {
		return xattrErr(err)
	}
	if err := s.holdFor(&x.held, len(x.data)); err != nil {
		return err
	}
	r.Length = uint64(len(x.data))
	f.node.refs.Add(1)
	nf := newFid(r.Fid2, f.node)
	nf.xattr = x
	s.insert(nf)
	return nil
}

func (s *session) getXattr(n *node, name string) ([]byte, error) {
	s.srv.tree.RLock()
	defer s.srv.tree.RUnlock()
	if err := n.canChange(); err != nil {
		return nil, err
	}
	if name != "" {
		return n.file.GetXattr(name)
	}
	names, err := n.file.ListXattrs()
	if err != nil || len(names) == 0 {
		return nil, err
	}
	return []byte(strings.Join(names, "\x00") + "\x00"), nil
}

// runXattrCreate makes a fid an attribute's value to come.
func runXattrCreate(r *request) error {
	s, f := r.s, r.f
	if r.Length > maxXattr {
		return linux.E2BIG
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case f.busy > 0:
		return errBusyFid
	case f.state != fidClosed:
		return errOpen
	case !s.hold(int(r.Length)):
		return errRequests
	}
	f.xattr = &xattr{name: r.Name, store: true, flags: p9.XattrFlags(r.Flags), size: r.Length, held: int(r.Length)}
	return nil
}

func (x *xattr) read(p []byte, off uint64) (int, error) {
	switch {
	case x.store:
		return 0, errNotReadable
	case off >= uint64(len(x.data)):
		return 0, nil
	}
	return copy(p, x.data[off:]), nil
}

func (x *xattr) write(p []byte, off uint64) (uint32, error) {
	switch {
	case !x.store:
		return 0, errNotWritable
	case off != uint64(len(x.data)):
		return 0, errOffset
	case off+uint64(len(p)) > x.size:
		return 0, linux.ENOSPC
	}
	x.data = append(x.data, p...)
	return uint32(len(p)), nil
}

// storeXattr sets the attribute that a fid was for, when it is clunked. An
// empty value that must replace one removes it.
func (s *session) storeXattr(f *fid) (err error) {
	defer s.recovered("xattr", &err)
	x := f.xattr
	if !x.store {
		return nil
	}
	if uint64(len(x.data)) != x.size {
		return fault(linux.EINVAL, "only a part of the extended attribute was written")
	}
	s.srv.tree.Lock()
	defer s.srv.tree.Unlock()
	if err := f.node.canChange(); err != nil {
		return err
	}
	if x.flags == p9.XattrReplace && x.size == 0 {
		return xattrErr(f.node.file.RemoveXattr(x.name))
	}
	return xattrErr(f.node.file.SetXattr(x.name, x.data, x.flags))
}
