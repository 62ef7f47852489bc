package fs

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"

	"github.com/hugelgupf/p9/linux"

	"vmfs/machine"
)

// Permission bits, as in the last three of a mode.
const (
	mayRead  = 4
	mayWrite = 2
	mayWalk  = 1
)

// nobody is the user of whom nothing is known.
const nobody = 65534

// noUser is the numeric user of an attach that names none.
const noUser = ^uint32(0)

// who is the user that a fid acts for.
type who struct {
	name string
	uid  uint32
	gids []uint32 // the first is the primary group; one whom this host does not know has none
	// all may do anything: root and the server's own user.
	all bool
	// readonly users change nothing, whatever the modes say.
	readonly bool
}

func (w *who) String() string {
	if w.name != "" {
		return w.name
	}
	return strconv.FormatUint(uint64(w.uid), 10)
}

// reads is the same for all who may read the same.
func (w *who) reads() string {
	switch {
	case w.all:
		return "all"
	case w.readonly: // whose user and groups count for nothing
		return "others"
	}
	return fmt.Sprint(w.uid, w.gids)
}

func (w *who) in(gid uint32) bool { return slices.Contains(w.gids, gid) }

// group is the group of what w makes.
func (w *who) group() uint32 {
	if len(w.gids) == 0 {
		return nobody
	}
	return w.gids[0]
}

// may reports whether w may do all of want, a sum of permission bits, to what
// o owns.
func (w *who) may(o machine.Owner, want uint32) bool {
	if w.readonly && want&mayWrite != 0 {
		return false
	}
	if w.all {
		return true
	}
	bits := dirMode(o)
	switch {
	case w.readonly: // nobody is not the owner of what the account of that name owns
	case w.uid == o.UID:
		bits >>= 6
	case w.in(o.GID):
		bits >>= 3
	}
	return bits&want == want
}

// dirMode is the mode of the directory of what o owns: who may read it may walk
// it, so that a VM's mode means something whatever bits a chmod gave.
func dirMode(o machine.Owner) uint32 { return o.Mode&0o777 | o.Mode>>2&0o111 }

// sees reports whether w may read what the VM has, and so when it changes.
func (w *who) sees(vm *machine.VM) bool { return w.all || w.may(vm.Owner(), mayRead) }

// owns reports whether w may change the owner's own affairs: mode and group.
func (w *who) owns(o machine.Owner) bool { return !w.readonly && (w.all || w.uid == o.UID) }

// caller is what the 9P server knows of a connection's other end. It is the
// server's own type under another name, so that neither imports the other.
type caller = interface {
	Network() string
	Listener() string
	Remote() string
	FixedUser() (name string, ok bool)
	PeerCred() (uid, gid uint32, groups []uint32, pid int, ok bool)
}

// identify says who attaches.
//
// On a Unix socket it is whom the kernel names; root and the server's own user
// may speak for others, by n_uname or else by uname. On another listener it is
// the user that the operator named for it; without one it is nobody, who only
// reads.
func (t *Tree) identify(c caller, uname string, nuname uint32) (*who, error) {
	if name, ok := c.FixedUser(); ok {
		return t.byName(name)
	}
	uid, gid, groups, _, ok := c.PeerCred()
	if !ok {
		return &who{name: "nobody", uid: nobody, gids: []uint32{nobody}, readonly: true}, nil
	}
	if !t.trusted(uid) || nuname == noUser && uname == "" || nuname == uid {
		return &who{uid: uid, gids: append([]uint32{gid}, groups...), all: t.trusted(uid)}, nil
	}
	if nuname != noUser {
		return t.byID(nuname), nil
	}
	return t.byName(uname)
}

// trusted users may do anything and speak for others.
func (t *Tree) trusted(uid uint32) bool { return uid == 0 || uid == uint32(os.Geteuid()) }

// Privileged reports whether a connection is of who runs the server: root and the
// server's own user keep a part of what the 9P server's limits allow to all.
func (t *Tree) Privileged(c caller) bool {
	uid, _, _, _, ok := c.PeerCred()
	return ok && t.trusted(uid)
}

// byName finds a user of this host by name or number.
func (t *Tree) byName(name string) (*who, error) {
	if n, err := strconv.ParseUint(name, 10, 32); err == nil {
		return t.byID(uint32(n)), nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return nil, &Error{linux.EACCES, fmt.Errorf("attach as %q: %w: this host has no such user", name, errAccess)}
	}
	return t.fromAccount(u), nil
}

// byID makes the user with a number. One whom this host does not know is in no group:
// that a number is a group's too means nothing.
func (t *Tree) byID(uid uint32) *who {
	if u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10)); err == nil {
		return t.fromAccount(u)
	}
	return &who{uid: uid, all: t.trusted(uid)}
}

func (t *Tree) fromAccount(u *user.User) *who {
	w := &who{name: u.Username, uid: number(u.Uid)}
	w.gids = append(w.gids, number(u.Gid))
	if ids, err := u.GroupIds(); err == nil {
		for _, id := range ids {
			w.gids = append(w.gids, number(id))
		}
	}
	w.all = t.trusted(w.uid)
	return w
}

func number(s string) uint32 {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return nobody
	}
	return uint32(n)
}

// hostFor is the server's ctl as one user sees it.
type hostFor struct {
	tree *Tree
	user *who
}

func (h hostFor) Create(ctx context.Context, name string) error {
	_, err := h.tree.create(ctx, h.user, name, defaultMode, h.user.group())
	return err
}

func (h hostFor) Delete(ctx context.Context, name string) error {
	return h.tree.remove(ctx, h.user, name)
}
