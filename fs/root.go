package fs

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"

	"vmfs/backends/hypervisor"
	"vmfs/ctl"
	"vmfs/machine"
	"vmfs/machine/events"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"
)

// rootTable is the files of the root beside the VMs. A row's place is part of
// its files' qids: new rows come last.
var rootTable []row

func init() {
	rootTable = []row{
		{
			name: "ctl", perm: 0o666, help: "server control: create NAME, delete NAME; reading shows the verbs",
			read: func(b []byte, _ *node) ([]byte, error) { return append(b, ctl.ServerUsage()...), nil },
			write: func(ctx context.Context, n *node, text string, _ bool) error {
				err := ctl.RunServer(ctx, hostFor{n.s.tree, n.s.user}, text)
				n.s.tree.logFailed(n.s.user, strings.TrimSpace(text), err)
				return err
			},
		},
		{
			name: "clone", perm: 0o666, help: "reading makes a VM and yields its name; the open file is then its ctl",
			open: func(n *node) (stream, error) { return &cloner{s: n.s}, nil },
		},
		{
			name: "events", perm: 0o444, help: "what happens to any VM from the open on, a line each",
			open: openAllEvents,
		},
		{
			name: "version", perm: 0o444, help: "vmfs's version, the dialects, and a line per back end found",
			read: func(b []byte, n *node) ([]byte, error) { return n.s.tree.appendVersion(b), nil },
		},
		{
			name: "backends", perm: 0o555, help: "what this host can run, a directory each",
			other: func(n node, parent *dir) file { return backendsDir(n, parent) },
		},
	}
}

// root returns a fid on the root for the user.
func (t *Tree) root(w *who) *dir {
	s := &session{tree: t, user: w}
	d := &dir{node: node{s: s, typ: p9.TypeDir}}
	d.parent = d
	d.lookup = func(name string) (file, error) {
		if i, ok := findRow(rootTable, name); ok {
			return open1(s, nil, rootTable, i, d), nil
		}
		vm, ok := t.host.VM(name)
		if !ok {
			return nil, noVM(name)
		}
		return vmDir(s, vm, d), nil
	}
	d.list = func() listing {
		return listing{entries: listRows(t, rootTable, nil), vms: t.host.VMs()}
	}
	d.unlink = func(ctx context.Context, name string, dir bool) error {
		if _, fixed := findRow(rootTable, name); fixed {
			return errReadonlyTree()
		}
		if _, ok := t.host.VM(name); ok && !dir {
			return failf(linux.EISDIR, "%s is a VM: remove it with rmdir", name)
		}
		return t.remove(ctx, w, name)
	}
	return d
}

// vmDir returns a fid on the directory of a VM.
func vmDir(s *session, vm *machine.VM, parent *dir) *dir {
	d := s.fids.vmDir()
	d.node, d.parent = node{s: s, vm: vm, typ: p9.TypeDir, path: vmQID(vm).Path}, parent
	return d
}

// newVMDir makes what vmDir fills in.
func newVMDir() *dir {
	d := &dir{ofVM: true}
	d.lookup = func(name string) (file, error) {
		i, ok := findRow(vmTable, name)
		if !ok {
			return nil, fail(fmt.Errorf("%s/%s: %w: a VM has no such file", d.vm.Name(), name, machine.ErrNotFound))
		}
		return open1(d.s, d.vm, vmTable, i, d), nil
	}
	d.list = func() listing { return listing{entries: listRows(d.s.tree, vmTable, d.vm)} }
	return d
}

// open1 returns a fid on the file of row i.
func open1(s *session, vm *machine.VM, rows []row, i int, parent *dir) file {
	r := &rows[i]
	n := node{s: s, vm: vm, path: rowQID(s.tree, rows, i, vm).Path, perm: r.perm}
	switch {
	case r.other != nil:
		return r.other(n, parent.kept())
	case r.open != nil:
		return &streamFile{node: n, name: r.name, open: func(_ context.Context, n *node, _ p9.OpenFlags) (stream, error) {
			return r.open(n)
		}}
	}
	return newText(n, r)
}

func rowQID(t *Tree, rows []row, i int, vm *machine.VM) p9.QID {
	q := p9.QID{Version: t.version(vm), Path: qidPath(vm, kindFixed, uint64(i)+1)}
	if rows[i].perm&0o111 != 0 {
		q.Type = p9.TypeDir
	}
	return q
}

func listRows(t *Tree, rows []row, vm *machine.VM) []entry {
	list := make([]entry, len(rows))
	for i := range rows {
		list[i] = entry{rows[i].name, rowQID(t, rows, i, vm)}
	}
	return list
}

func (t *Tree) rootGID() uint32 {
	if t.opt.CreateGroup != nil {
		return *t.opt.CreateGroup
	}
	return ownGID()
}

func (t *Tree) appendVersion(b []byte) []byte {
	b = append(b, "vmfs "+t.opt.Version+"\n"...)
	b = append(b, "9P2000.L 9P2000.u 9P2000\n"...)
	for _, be := range t.host.Backends() {
		if be.Err == nil {
			b = append(b, fmt.Sprintf("%s %s\n", be.Type, be.Version)...)
		}
	}
	return b
}

// openAllEvents opens the events of all VMs; a user sees those of the VMs that
// he might read when it happened.
func openAllEvents(n *node) (stream, error) {
	w := n.s.user
	return &eventStream{
		sub:  n.s.tree.host.Events().Subscribe(),
		only: func(r events.Event) bool { return r.Kind == events.KindLost || w.may(r.Owner, mayRead) },
	}, nil
}

// cloner is a fid on clone. The first read makes the VM.
type cloner struct {
	s *session

	mu   sync.Mutex // guards what follows
	vm   *machine.VM
	rest rest
}

func (c *cloner) read(ctx context.Context, p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.vm == nil {
		vm, err := c.s.tree.create(ctx, c.s.user, "", defaultMode, c.s.user.gids[0])
		if err != nil {
			return 0, err
		}
		c.vm, c.rest = vm, append([]byte(vm.Name()), '\n')
	}
	if len(c.rest) == 0 {
		return 0, io.EOF
	}
	return c.rest.take(p), nil
}

var errReadFirst = fmt.Errorf("clone: %w: read the new VM's name first, by the same open file", hypervisor.ErrInvalid)

func (c *cloner) write(ctx context.Context, p []byte) (int, error) {
	c.mu.Lock()
	vm := c.vm
	c.mu.Unlock()
	if vm == nil {
		return 0, errReadFirst
	}
	return len(p), ctl.Run(ctx, vm, string(p))
}

func (c *cloner) close() {}

// backendsDir returns a fid on the directory of back ends.
func backendsDir(n node, parent *dir) *dir {
	n.typ = p9.TypeDir
	d := &dir{node: n, parent: parent}
	host := n.s.tree.host
	qid := func(i int) p9.QID {
		return p9.QID{Type: p9.TypeDir, Version: host.Gen(), Path: qidPath(nil, kindBackend, uint64(i))}
	}
	d.lookup = func(name string) (file, error) {
		for i, be := range host.Backends() {
			if string(be.Type) == name {
				bn := n
				bn.path = qid(i).Path
				return backendDir(bn, d, be, i), nil
			}
		}
		return nil, fail(fmt.Errorf("backends/%s: %w: this vmfs has no such back end", name, machine.ErrNotFound))
	}
	d.list = func() (l listing) {
		for i, be := range host.Backends() {
			l.entries = append(l.entries, entry{string(be.Type), qid(i)})
		}
		return l
	}
	return d
}

// backendDir returns a fid on the directory of one back end.
func backendDir(n node, parent *dir, be machine.Backend, i int) *dir {
	d := &dir{node: n, parent: parent}
	rows := backendRows(be)
	qid := func(j int) p9.QID {
		return p9.QID{Version: n.s.tree.version(nil), Path: qidPath(nil, kindBackFile, uint64(i)<<8|uint64(j))}
	}
	d.lookup = func(name string) (file, error) {
		j, ok := findRow(rows, name)
		if !ok {
			return nil, fail(fmt.Errorf("backends/%s/%s: %w", be.Type, name, machine.ErrNotFound))
		}
		return &textFile{node: node{s: n.s, path: qid(j).Path, perm: rows[j].perm}, row: &rows[j]}, nil
	}
	d.list = func() (l listing) {
		for j := range rows {
			l.entries = append(l.entries, entry{rows[j].name, qid(j)})
		}
		return l
	}
	return d
}

// backendRows is the files of one back end's directory. Those of a back end
// whose program is missing say so as the error of reading them.
func backendRows(be machine.Backend) []row {
	line := func(s string) func([]byte, *node) ([]byte, error) {
		return func(b []byte, _ *node) ([]byte, error) {
			if be.Err != nil {
				return nil, be.Err
			}
			return append(append(b, s...), '\n'), nil
		}
	}
	return []row{
		{name: "version", perm: 0o444, help: "its version", read: line(be.Version)},
		{name: "binary", perm: 0o444, help: "its program", read: line(be.Binary)},
		{name: "capabilities", perm: 0o444, help: "what it can do, a word a line", read: func(b []byte, _ *node) ([]byte, error) {
			return appendWords(b, be.Capabilities), nil
		}},
	}
}
