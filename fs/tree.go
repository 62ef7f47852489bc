package fs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"runtime"
	"strings"
	"time"

	"github.com/hugelgupf/p9/p9"

	"vmfs/backends/hypervisor"
	"vmfs/machine"
	"vmfs/machine/rc"
	"vmfs/streams"
)

// defaultMode is the mode of a VM that is made without one: its owner may do
// anything, others nothing. Config and console can hold secrets.
const defaultMode = 0o700

// Options are what a Tree can be told. The zero value is useful.
type Options struct {
	// Version is the text of the version file's first line.
	Version string
	// CreateGroup is a group whose members may make VMs besides root and the
	// server's own user; nil is none.
	CreateGroup *uint32
	// Linger is how long a vsock stream that was closed after writes may take to
	// deliver them and to reach its end; 0 is 30 s (streams.New).
	Linger time.Duration
	// Log gets a line for each refused attach; nothing is logged if it is nil.
	Log *slog.Logger
}

// Tree is the tree of one host.
type Tree struct {
	host   *machine.Host
	opt    Options
	guests *streams.Guests

	snapshots snapshotIDs
	// reads holds a token for each file of the disk that is being read: fewer than there
	// are processors to do other things besides.
	reads chan struct{}
}

var _ p9.Attacher = (*Tree)(nil)

// New returns the tree of host.
func New(host *machine.Host, opt Options) *Tree {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	return &Tree{host: host, opt: opt, guests: streams.New(host, opt.Linger), reads: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)-1))}
}

// Close ends what the tree holds of vsock streams. Streams that were closed and
// still deliver may do so until ctx ends, and those that are open are cut. It is
// for when no server serves the tree any more.
func (t *Tree) Close(ctx context.Context) { t.guests.Close(ctx) }

// Attach returns the root for the server's own user. It is for servers and
// tests that know nothing of users.
func (t *Tree) Attach() (p9.File, error) {
	return t.root(&who{uid: ownUID(), gids: []uint32{ownGID()}, all: true}), nil
}

// AttachUser returns the root for the user that the server and the client make
// out together (see identify). aname is a path in the tree: what the client sees
// as the root is then that.
func (t *Tree) AttachUser(_ context.Context, c caller, uname string, nuname uint32, aname string) (p9.File, error) {
	w, err := t.identify(c, uname, nuname)
	if err != nil {
		t.opt.Log.Warn("attach refused", "listener", c.Listener(), "remote", c.Remote(), "uname", uname, "error", err)
		return nil, fail(err)
	}
	return t.attach(w, aname)
}

// attach returns what a path in the tree leads a user to.
func (t *Tree) attach(w *who, aname string) (p9.File, error) {
	root := t.root(w)
	names := strings.FieldsFunc(path.Clean("/"+aname), func(r rune) bool { return r == '/' })
	if len(names) == 0 {
		return root, nil
	}
	_, f, err := root.Walk(names)
	return f, err
}

func (t *Tree) mayCreate(w *who) bool {
	return !w.readonly && (w.all || t.opt.CreateGroup != nil && w.in(*t.opt.CreateGroup))
}

// create makes a VM for w; an empty name is a generated one.
func (t *Tree) create(_ context.Context, w *who, name string, mode, gid uint32) (*machine.VM, error) {
	if !t.mayCreate(w) {
		return nil, fail(fmt.Errorf("create %s as %s: %w: VMs are made by root, the server's user and the members of its --create-group", cmp.Or(name, "a VM"), w, errAccess))
	}
	o := machine.Owner{UID: w.uid, GID: gid, Mode: mode & 0o777}
	if name == "" {
		vm, err := t.host.CreateAny(o)
		return vm, fail(err)
	}
	vm, err := t.host.Create(name, o)
	return vm, fail(err)
}

// logFailed logs a command that failed and that no VM has recorded.
func (t *Tree) logFailed(w *who, command string, err error) {
	if err != nil && !errors.Is(err, hypervisor.ErrBusy) { // that is a VM's
		t.opt.Log.Warn("command failed", "user", w, "command", rc.Brief(command, 200), "err", err)
	}
}

// remove deletes a VM for w, who must be its owner.
func (t *Tree) remove(ctx context.Context, w *who, name string) error {
	vm, ok := t.host.VM(name)
	if !ok {
		return noVM(name)
	}
	if o := vm.Owner(); !w.owns(o) {
		return fail(fmt.Errorf("delete %s as %s: %w: it belongs to user %d", name, w, errAccess, o.UID))
	}
	err := vm.Delete(ctx) // the one whose owner was looked at, whatever has its name by now
	if err != nil {
		vm.RecordError("delete", err)
	}
	return fail(err)
}

func noVM(name string) error {
	return fail(fmt.Errorf("no VM %q: %w", name, machine.ErrNotFound))
}
