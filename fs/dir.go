package fs

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"

	"vmfs/machine"
)

// A dirKind is what all directories of one kind have in common. What is in them
// besides rows comes and goes.
type dirKind struct {
	base uint64 // row i has the qid path of the directory, or of this in its VM, and i+1
	rows []row
	// at is what to call it in errors, with a slash at the end, and none what to say of
	// a name that is not there, where find does not say so itself.
	at   func(d *dir) string
	none string

	// find gives a fid on what is there besides rows, nil if nothing has that name,
	// and more lists it.
	find func(d *dir, name string) (file, error)
	more func(d *dir) listing
	// make makes a name, and unlink removes one that the client believes to be a
	// directory or not; they are nil where names are fixed.
	make   func(ctx context.Context, d *dir, name string, perm uint32, gid p9.GID) (p9.QID, error)
	unlink func(ctx context.Context, d *dir, name string, dir bool) error
}

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

func (l *listing) at(s *session, i int) entry {
	if i < len(l.entries) {
		return l.entries[i]
	}
	vm := l.vms[i-len(l.entries)]
	return entry{vm.Name(), s.vmQID(vm)}
}

// file is what every File here is.
type file interface {
	p9.File
	qid() p9.QID
}

// dir is a fid on a directory.
type dir struct {
	node
	kind   *dirKind
	stored bool // see fidStore

	mu     sync.Mutex // guards what follows
	opened bool
	shown  *listing // as it was when reading began
}

// newDir returns a fid on a directory for whoever n is of. of is what it shows, for
// its kind.
func newDir(kind *dirKind, n node, path uint64, of any) *dir {
	d := n.s.fids.dir()
	d.node, d.kind = node{s: n.s, vm: n.vm, of: of, typ: p9.TypeDir, path: path}, kind
	return d
}

// below is the qid path of row i, or of what has a number of its own there.
func (d *dir) below(i int) uint64 {
	base := d.path
	if d.kind.base != 0 {
		base = qidPath(d.vm, d.kind.base, 0)
	}
	return base + uint64(i) + 1
}

// row returns a fid on the file of row i.
func (d *dir) row(i int) file {
	r := &d.kind.rows[i]
	if r.dir != nil {
		return newDir(r.dir, d.node, d.below(i), d.of)
	}
	return newFile(node{s: d.s, vm: d.vm, of: d.of, path: d.below(i), perm: r.perm}, r)
}

// Walk walks any number of names.
func (d *dir) Walk(names []string) ([]p9.QID, p9.File, error) {
	if len(names) == 0 {
		return []p9.QID{d.qid()}, newDir(d.kind, d.node, d.path, d.of), nil
	}
	qids := make([]p9.QID, 0, len(names))
	var at file = d
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
	if err := d.may(mayWalk, "walk to", name); err != nil {
		return nil, err
	}
	if i, ok := findRow(d.kind.rows, name); ok {
		return d.row(i), nil
	}
	if d.kind.find != nil {
		if f, err := d.kind.find(d, name); f != nil || err != nil {
			return f, fail(err)
		}
	}
	return nil, fail(fmt.Errorf("%s%s: %w: %s", d.kind.at(d), name, machine.ErrNotFound, d.kind.none))
}

// Close forgets the fid.
func (d *dir) Close() error {
	d.s.fids.putDir(d)
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

func (d *dir) list() *listing {
	var l listing
	if d.kind.more != nil {
		l = d.kind.more(d)
	}
	version := d.s.version(d.vm)
	rows := make([]entry, len(d.kind.rows), len(d.kind.rows)+len(l.entries))
	for i, r := range d.kind.rows {
		rows[i] = entry{r.name, p9.QID{Type: r.typ(), Version: version, Path: d.below(i)}}
	}
	l.entries = append(rows, l.entries...)
	return &l
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
		d.shown = d.list()
	}
	total := uint64(d.shown.len())
	if offset >= total {
		return nil, io.EOF
	}
	// No more than there can be room for: what is too much is kept for the next
	// call, with each fid.
	ents := make(p9.Dirents, min(total-offset, uint64(count)/shortestEntry+1))
	for i := range ents {
		e := d.shown.at(d.s, int(offset)+i)
		ents[i] = p9.Dirent{QID: e.qid, Offset: offset + uint64(i) + 1, Type: e.qid.Type, Name: e.name}
	}
	return ents, nil
}

// shortestEntry is what an entry takes in a reply, at least. The count of Readdir
// is in bytes, as p9's server gives it, too.
const shortestEntry = 25

// MkdirContext makes what a directory here stands for.
func (d *dir) MkdirContext(ctx context.Context, name string, perm p9.FileMode, _ p9.UID, gid p9.GID) (p9.QID, error) {
	if d.kind.make == nil {
		return p9.QID{}, errReadonlyTree()
	}
	if err := d.gone(); err != nil {
		return p9.QID{}, err
	}
	return d.kind.make(ctx, d, name, uint32(perm.Permissions()), gid)
}

// UnlinkAtContext removes what can be removed here.
func (d *dir) UnlinkAtContext(ctx context.Context, name string, flags uint32) error {
	if _, fixed := findRow(d.kind.rows, name); fixed || d.kind.unlink == nil {
		return errReadonlyTree()
	}
	if err := d.gone(); err != nil {
		return err
	}
	const atRemoveDir = 0x200 // AT_REMOVEDIR, unlinkat(2)
	return fail(d.kind.unlink(ctx, d, name, flags&atRemoveDir != 0))
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
