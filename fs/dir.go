package fs

import (
	"context"
	"io"
	"sync"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"

	"vmfs/machine"
)

// entry is one name in a directory.
type entry struct {
	name string
	qid  p9.QID
}

// listing is what a directory shows: entries, and in the root the VMs, whose list
// all that read it share.
type listing struct {
	entries []entry
	vms     []*machine.VM
}

func (l *listing) len() int { return len(l.entries) + len(l.vms) }

func (l *listing) at(i int) entry {
	if i < len(l.entries) {
		return l.entries[i]
	}
	vm := l.vms[i-len(l.entries)]
	return entry{vm.Name(), vmQID(vm)}
}

// file is what every File here is.
type file interface {
	p9.File
	qid() p9.QID
}

// dir is a fid on a directory.
type dir struct {
	node
	parent *dir // the root is its own
	// lookup finds a name, list all of them.
	lookup func(name string) (file, error)
	list   func() listing
	// unlink removes a name, which the client believes to be a directory or not;
	// nil where names are fixed.
	unlink func(ctx context.Context, name string, dir bool) error

	ofVM   bool // made by vmDir
	stored bool // see fidStore

	mu     sync.Mutex // guards what follows
	opened bool
	shown  *listing // as it was when reading began
}

// clone is the fid that a walk of no names makes.
func (d *dir) clone() *dir {
	if d.ofVM {
		return vmDir(d.s, d.vm, d.parent)
	}
	return &dir{node: d.node, parent: d.parent, lookup: d.lookup, list: d.list, unlink: d.unlink}
}

// WalkOne walks one name.
func (d *dir) WalkOne(name string) (p9.QID, p9.File, error) {
	f, err := d.walk(name)
	if err != nil {
		return p9.QID{}, nil, err
	}
	return f.qid(), f, nil
}

func (d *dir) walk(name string) (file, error) {
	if err := d.gone(); err != nil {
		return nil, err
	}
	if name == ".." {
		return d.parent.clone(), nil
	}
	if err := d.may(mayWalk, "walk to", name); err != nil {
		return nil, err
	}
	return d.lookup(name)
}

// Walk walks any number of names.
func (d *dir) Walk(names []string) ([]p9.QID, p9.File, error) {
	var at file = d
	if len(names) == 0 {
		return []p9.QID{d.qid()}, d.clone(), nil
	}
	qids := make([]p9.QID, 0, len(names))
	for _, name := range names {
		in, ok := at.(*dir)
		if !ok {
			return nil, nil, linux.ENOTDIR
		}
		f, err := in.walk(name)
		if err != nil {
			return nil, nil, err
		}
		at = f
		qids = append(qids, f.qid())
	}
	return qids, at, nil
}

// Close forgets the fid.
func (d *dir) Close() error {
	if d.ofVM {
		d.s.fids.putVMDir(d)
	}
	return nil
}

// Open opens the directory for reading.
func (d *dir) Open(mode p9.OpenFlags) (p9.QID, uint32, error) {
	if err := d.gone(); err != nil {
		return p9.QID{}, 0, err
	}
	if mode.Mode() != p9.ReadOnly {
		return p9.QID{}, 0, linux.EISDIR
	}
	if err := d.may(mayRead, "open"); err != nil {
		return p9.QID{}, 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.opened = true
	return d.qid(), 0, nil
}

// Readdir returns the entries from offset on, of the list as it was when offset
// 0 was read: VMs that come and go meanwhile neither hide nor double others.
func (d *dir) Readdir(offset uint64, count uint32) (p9.Dirents, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.opened {
		return nil, linux.EBADF
	}
	if offset == 0 || d.shown == nil {
		if err := d.gone(); err != nil {
			return nil, err
		}
		l := d.list()
		d.shown = &l
	}
	total := uint64(d.shown.len())
	if offset >= total {
		return nil, io.EOF
	}
	// No more than there can be room for: what is too much is kept for the next
	// call, with each fid.
	ents := make(p9.Dirents, min(total-offset, uint64(count)/shortestEntry+1))
	for i := range ents {
		e := d.shown.at(int(offset) + i)
		ents[i] = p9.Dirent{QID: e.qid, Offset: offset + uint64(i) + 1, Type: e.qid.Type, Name: e.name}
	}
	return ents, nil
}

// shortestEntry is what an entry takes in a reply, at least. The count of Readdir
// is in bytes, as p9's server gives it, too.
const shortestEntry = 25

// MkdirContext makes a VM.
func (d *dir) MkdirContext(ctx context.Context, name string, perm p9.FileMode, _ p9.UID, gid p9.GID) (p9.QID, error) {
	if d.path != 0 {
		return p9.QID{}, errReadonlyTree()
	}
	w := d.s.user
	group := w.gids[0]
	if gid.Ok() && (w.all || w.in(uint32(gid))) {
		group = uint32(gid)
	}
	vm, err := d.s.tree.create(ctx, w, name, uint32(perm.Permissions()), group)
	if err != nil {
		d.s.tree.logFailed(w, "mkdir "+name, err)
		return p9.QID{}, err
	}
	return vmQID(vm), nil
}

// UnlinkAtContext removes what can be removed here.
func (d *dir) UnlinkAtContext(ctx context.Context, name string, flags uint32) error {
	if d.unlink == nil {
		return errReadonlyTree()
	}
	if err := d.gone(); err != nil {
		return err
	}
	const atRemoveDir = 0x200 // AT_REMOVEDIR, unlinkat(2)
	return d.unlink(ctx, name, flags&atRemoveDir != 0)
}

// CanRemove refuses all names: directories alone are ever removed, and no file.
func (d *dir) CanRemove(string) error { return errReadonlyTree() }

// RenameAt refuses, and says so of a VM.
func (d *dir) RenameAt(oldName string, _ p9.File, _ string) error {
	if _, ok := d.s.tree.host.VM(oldName); ok && d.path == 0 {
		return failf(linux.EPERM, "rename %s: a VM keeps its name: make another with its config, and remove this one", oldName)
	}
	return errReadonlyTree()
}

// Mkdir is MkdirContext for servers that know no contexts.
func (d *dir) Mkdir(name string, perm p9.FileMode, uid p9.UID, gid p9.GID) (p9.QID, error) {
	return d.MkdirContext(context.Background(), name, perm, uid, gid)
}

// UnlinkAt is UnlinkAtContext for servers that know no contexts.
func (d *dir) UnlinkAt(name string, flags uint32) error {
	return d.UnlinkAtContext(context.Background(), name, flags)
}

func vmQID(vm *machine.VM) p9.QID {
	return p9.QID{Type: p9.TypeDir, Version: vm.Gen(), Path: qidPath(vm, kindFixed, 0)}
}
