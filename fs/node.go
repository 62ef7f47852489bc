package fs

import (
	"context"
	"os"
	"strings"
	"time"

	"github.com/hugelgupf/p9/fsimpl/templatefs"
	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"

	"vmfs/machine"
)

// A qid.path is the VM's ID, then the kind of file, then which one of that
// kind, so that it is unique and stays the same for the life of the VM.
const (
	kindShift = 32
	idShift   = 36
)

const (
	kindFixed    = iota // the root or a VM's directory, or one of its files
	kindBackend         // a directory below backends or one of its files
	kindVsock           // a fixed file of vsock
	kindPort            // vsock/N
	kindListen          // vsock/listen/N
	kindConv            // a conversation's directory or one of its files
	kindSnapshot        // a directory below snapshots or one of its files
)

func qidPath(vm *machine.VM, kind, which uint64) uint64 {
	p := kind<<kindShift | which
	if vm != nil {
		p |= vm.ID() << idShift
	}
	return p
}

// started is the time that files of the server itself bear.
var started = time.Now()

func ownUID() uint32 { return uint32(max(os.Geteuid(), 0)) }
func ownGID() uint32 { return uint32(max(os.Getegid(), 0)) }

// session is what the fids of one attach share.
type session struct {
	tree *Tree
	user *who
	// truncs are the fids open for writing whose file a truncation is told of,
	// since v9fs truncates by another fid than it writes with.
	truncs truncSet
	fids   fidStore
}

// node is what every File of the tree has in common: whose it is, its qid and
// its attributes; and the methods that make no sense for any file here.
type node struct {
	p9.DefaultWalkGetAttr
	templatefs.NilCloser
	templatefs.NilSyncer
	templatefs.NoopRenamed
	templatefs.NotSymlinkFile
	templatefs.XattrUnimplemented
	templatefs.IsDir // to read and write

	s    *session
	vm   *machine.VM // nil outside of VM directories
	of   any         // what of the VM or the host: see the dirKinds
	path uint64
	typ  p9.QIDType
	perm uint32 // of a regular file: the bits that its kind allows
	acts bool   // see row
}

// qid returns the qid as it is now. Its version changes whenever the content may
// have: with anything of the VM, or outside of VMs with the list of VMs.
func (n *node) qid() p9.QID {
	return p9.QID{Type: n.typ, Version: n.s.version(n.vm), Path: n.path}
}

// version is that of a VM's files, or outside of VMs of the list of VMs. Whoever may not read
// a VM sees nothing of what happens to it, and so always the same.
func (s *session) version(vm *machine.VM) uint32 {
	switch {
	case vm == nil:
		return s.tree.host.Gen()
	case !s.user.sees(vm):
		return 0
	}
	return vm.Gen()
}

func (s *session) vmQID(vm *machine.VM) p9.QID {
	return p9.QID{Type: p9.TypeDir, Version: s.version(vm), Path: vmPath(vm)}
}

func vmPath(vm *machine.VM) uint64 { return qidPath(vm, kindFixed, 0) }

// owner is whose the file is.
func (n *node) owner() machine.Owner {
	if n.vm != nil {
		return n.vm.Owner()
	}
	return machine.Owner{UID: ownUID(), GID: n.s.tree.rootGID(), Mode: 0o775}
}

func (n *node) mode() p9.FileMode {
	o := n.owner()
	if n.typ == p9.TypeDir {
		if n.vm == nil && n.path != 0 {
			return p9.ModeDirectory | 0o555 // what back ends there are is nobody's to change
		}
		return p9.ModeDirectory | p9.FileMode(dirMode(o))
	}
	if n.vm == nil {
		return p9.ModeRegular | p9.FileMode(n.perm)
	}
	perm := n.perm & o.Mode
	if n.acts { // r counts beside w alone
		perm &= 0o222 | perm<<1&0o444
	}
	return p9.ModeRegular | p9.FileMode(perm)
}

// gone is an error if the VM was deleted while the fid was there.
func (n *node) gone() error {
	if n.vm == nil {
		return nil
	}
	if vm, ok := n.s.tree.host.VM(n.vm.Name()); !ok || vm != n.vm {
		return noVM(n.vm.Name())
	}
	return nil
}

// GetAttr tells all attributes but the size, which is 0 for everything here.
func (n *node) GetAttr(p9.AttrMask) (p9.QID, p9.AttrMask, p9.Attr, error) {
	if err := n.gone(); err != nil {
		return p9.QID{}, p9.AttrMask{}, p9.Attr{}, err
	}
	o := n.owner()
	at := started
	if n.vm != nil {
		st := n.vm.Status()
		if at = st.Since; !n.s.user.sees(n.vm) {
			at = st.Created
		}
	}
	sec, nsec := uint64(at.Unix()), uint64(at.Nanosecond())
	nlink := p9.NLink(1)
	if n.typ == p9.TypeDir {
		nlink = 2
	}
	mask := p9.AttrMask{Mode: true, NLink: true, UID: true, GID: true, RDev: true, ATime: true, MTime: true, CTime: true, INo: true, Size: true, Blocks: true}
	return n.qid(), mask, p9.Attr{
		Mode: n.mode(), UID: p9.UID(o.UID), GID: p9.GID(o.GID), NLink: nlink, BlockSize: 4096,
		ATimeSeconds: sec, ATimeNanoSeconds: nsec, MTimeSeconds: sec, MTimeNanoSeconds: nsec, CTimeSeconds: sec, CTimeNanoSeconds: nsec,
	}, nil
}

// StatFS tells of a file system without blocks, and of the longest name.
func (n *node) StatFS() (p9.FSStat, error) {
	return p9.FSStat{Type: 0x01021997 /* V9FS_MAGIC, statfs(2) */, BlockSize: 4096, NameLength: 255}, nil
}

// may refuses what the mode does not allow. The words of what are put together
// only for an error.
func (n *node) may(want uint32, what ...string) error {
	w := n.s.user
	if n.vm != nil {
		if w.may(n.vm.Owner(), want) {
			return nil
		}
		return failf(linux.EACCES, "%s: %w: VM %s belongs to user %d, mode %#o, and you are %s%s", strings.Join(what, " "), errAccess, n.vm.Name(), n.vm.Owner().UID, n.vm.Owner().Mode, w, readonlyNote(w))
	}
	if want&mayWrite != 0 && w.readonly {
		return failf(linux.EACCES, "%s: %w: you are %s%s", strings.Join(what, " "), errAccess, w, readonlyNote(w))
	}
	return nil
}

func readonlyNote(w *who) string {
	if w.readonly {
		return ", who may only read: the listener names no user"
	}
	return ""
}

// SetAttrContext takes what shells send for > and touch(1), and means it only
// for a VM directory's mode, owner and group.
func (n *node) SetAttrContext(_ context.Context, valid p9.SetAttrMask, attr p9.SetAttr) error {
	return n.SetAttr(valid, attr)
}

// SetAttr is SetAttrContext for servers that know no contexts. It changes all that is
// asked for, or nothing: what refuses comes first.
func (n *node) SetAttr(valid p9.SetAttrMask, attr p9.SetAttr) error {
	if err := n.gone(); err != nil {
		return err
	}
	if valid.Permissions || valid.UID || valid.GID {
		if n.vm == nil || n.path != vmPath(n.vm) {
			return failf(linux.EPERM, "the mode and owner of a file are those of its VM's directory: change them there")
		}
		if attr.Permissions&^0o777 != 0 && valid.Permissions {
			return failf(linux.EPERM, "mode %#o: a VM's directory has permissions for reading, writing and searching, and no other bits", attr.Permissions)
		}
	}
	if valid.Size {
		if n.typ == p9.TypeDir {
			return linux.EISDIR
		}
		if err := n.may(mayWrite, "truncate"); err != nil {
			return err
		}
	}
	if valid.ATime || valid.MTime {
		if err := n.touch(valid); err != nil {
			return err
		}
	}
	if valid.Permissions || valid.UID || valid.GID {
		if err := n.chown(valid, attr); err != nil {
			return err
		}
	}
	if valid.Size {
		n.s.truncs.truncate(n.path)
	}
	return nil
}

// touch checks who sets times, as utimensat(2) does. The times themselves are
// the server's: nothing is changed.
func (n *node) touch(valid p9.SetAttrMask) error {
	if w := n.s.user; n.vm != nil && w.owns(n.vm.Owner()) || n.vm == nil && w.all {
		return nil
	}
	if valid.ATimeNotSystemTime || valid.MTimeNotSystemTime {
		if !valid.Size {
			return failf(linux.EPERM, "set times: only the owner may")
		}
	}
	return n.may(mayWrite, "set times")
}

// chown changes mode, owner and group of a VM, as chmod(2) and chown(2) allow.
func (n *node) chown(valid p9.SetAttrMask, attr p9.SetAttr) error {
	w := n.s.user
	return fail(n.vm.ChangeOwner(func(o machine.Owner) (machine.Owner, error) {
		if !w.owns(o) {
			return o, failf(linux.EPERM, "change mode or owner of %s: it belongs to user %d, and you are %s%s", n.vm.Name(), o.UID, w, readonlyNote(w))
		}
		if valid.UID && attr.UID.Ok() && uint32(attr.UID) != o.UID {
			if !w.all {
				return o, failf(linux.EPERM, "change owner of %s: only root gives a VM away", n.vm.Name())
			}
			o.UID = uint32(attr.UID)
		}
		if valid.GID && attr.GID.Ok() && uint32(attr.GID) != o.GID {
			if !w.all && !w.in(uint32(attr.GID)) {
				return o, failf(linux.EPERM, "change group of %s to %d: %s is not a member", n.vm.Name(), attr.GID, w)
			}
			o.GID = uint32(attr.GID)
		}
		if valid.Permissions {
			o.Mode = uint32(attr.Permissions)
		}
		return o, nil
	}))
}

func errReadonlyTree() error {
	return failf(linux.EPERM, "the files of the tree are fixed: VMs are made by mkdir in the root and removed by rmdir")
}

// The rest of p9.File, for files that are not of such a kind.

func (n *node) Open(p9.OpenFlags) (p9.QID, uint32, error)  { return p9.QID{}, 0, linux.EINVAL }
func (n *node) Readdir(uint64, uint32) (p9.Dirents, error) { return nil, linux.ENOTDIR }

func (n *node) Lock(int, p9.LockType, p9.LockFlags, uint64, uint64, string) (p9.LockStatus, error) {
	return p9.LockStatusError, linux.EOPNOTSUPP
}

func (n *node) Create(string, p9.OpenFlags, p9.FileMode, p9.UID, p9.GID) (p9.File, p9.QID, uint32, error) {
	return nil, p9.QID{}, 0, errReadonlyTree()
}

func (n *node) Mkdir(string, p9.FileMode, p9.UID, p9.GID) (p9.QID, error) {
	return p9.QID{}, errReadonlyTree()
}

func (n *node) Symlink(string, string, p9.UID, p9.GID) (p9.QID, error) {
	return p9.QID{}, errReadonlyTree()
}

func (n *node) Link(p9.File, string) error { return errReadonlyTree() }

func (n *node) Mknod(string, p9.FileMode, uint32, uint32, p9.UID, p9.GID) (p9.QID, error) {
	return p9.QID{}, errReadonlyTree()
}

func (n *node) Rename(p9.File, string) error           { return errReadonlyTree() }
func (n *node) RenameAt(string, p9.File, string) error { return errReadonlyTree() }
func (n *node) UnlinkAt(string, uint32) error          { return errReadonlyTree() }
