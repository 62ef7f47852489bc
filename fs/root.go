package fs

import (
	"context"
	"fmt"
	"strings"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"

	"vmfs/backends/hypervisor"
	"vmfs/ctl"
	"vmfs/machine/events"
	"vmfs/streams"
)

// rootKind is the root: its own files and the VMs.
var rootKind = dirKind{
	rows: []row{
		{
			name: "ctl", perm: 0o666, help: "server control: create NAME, delete NAME; reading shows the verbs",
			read: func(b []byte, _ *node) ([]byte, error) { return append(b, ctl.ServerUsage()...), nil },
			write: func(ctx context.Context, n *node, text string) error {
				err := ctl.RunServer(ctx, hostFor{n.s.tree, n.s.user}, text)
				n.s.tree.logFailed(n.s.user, strings.TrimSpace(text), err)
				return err
			},
			answers: true,
		},
		{
			name: "clone", perm: 0o666, help: "opening makes a VM, reading yields its name; the open file is its ctl",
			begin: func(ctx context.Context, n *node) (row, func(), error) {
				vm, err := n.s.tree.create(ctx, n.s.user, "", defaultMode, n.s.user.group())
				if err != nil {
					return row{}, nil, err
				}
				return named(vm.Name(), func(ctx context.Context, text string) error { return ctl.Run(ctx, vm, text) }), nil, nil
			},
		},
		{
			name: "events", perm: 0o444, help: "what happens to any VM from the open on, a line each",
			stream: plain(func(n *node) streams.Stream {
				w := n.s.user
				return streams.Events(n.s.tree.host.Events(), events.Audience{
					Name: w.reads(), May: func(e events.Event) bool { return w.may(e.Owner, mayRead) },
				})
			}),
			holds: cost{bytes: events.ReaderBytes},
		},
		{
			name: "version", perm: 0o444, help: "vmfs's version, the dialects, and a line per back end found",
			begin: func(ctx context.Context, n *node) (row, func(), error) {
				text := fmt.Appendf(nil, "vmfs %s\n9P2000.L 9P2000.u 9P2000\n", n.s.tree.opt.Version)
				for _, t := range hypervisor.Types() {
					be := n.s.tree.host.Backend(ctx, t)
					if ctx.Err() != nil {
						return row{}, nil, be.Err
					}
					if be.Err == nil {
						text = fmt.Appendf(text, "%s %s\n", be.Type, be.Version)
					}
				}
				return row{read: func(b []byte, _ *node) ([]byte, error) { return append(b, text...), nil }}, nil, nil
			},
		},
		{name: "backends", perm: 0o555, help: "what this host can run, a directory each", dir: &backendsKind},
	},
	find: func(d *dir, name string) (file, error) {
		if vm, ok := d.s.tree.host.VM(name); ok {
			return newDir(&vmKind, node{s: d.s, vm: vm}, vmPath(vm), nil), nil
		}
		return nil, noVM(name)
	},
	more: func(d *dir) listing { return listing{vms: d.s.tree.host.VMs()} },
	make: func(ctx context.Context, d *dir, name string, perm uint32, gid p9.GID) (p9.QID, error) {
		w := d.s.user
		group := w.group()
		if gid.Ok() && (w.all || w.in(uint32(gid))) {
			group = uint32(gid)
		}
		vm, err := d.s.tree.create(ctx, w, name, perm, group)
		if err != nil {
			d.s.tree.logFailed(w, "mkdir "+name, err)
			return p9.QID{}, err
		}
		return d.s.vmQID(vm), nil
	},
	unlink: func(ctx context.Context, d *dir, name string, dir bool) error {
		if _, ok := d.s.tree.host.VM(name); ok && !dir {
			return failf(linux.EISDIR, "%s is a VM: remove it with rmdir", name)
		}
		return d.s.tree.remove(ctx, d.s.user, name)
	},
}

// named is the ctl of what was made by opening clone: it reads as its name.
func named(name string, write func(ctx context.Context, text string) error) row {
	return row{
		read:    func(b []byte, _ *node) ([]byte, error) { return append(append(b, name...), '\n'), nil },
		write:   func(ctx context.Context, _ *node, text string) error { return write(ctx, text) },
		answers: true,
	}
}

// root returns a fid on the root for the user.
func (t *Tree) root(w *who) *dir {
	return newDir(&rootKind, node{s: &session{tree: t, user: w}}, 0, nil)
}

func (t *Tree) rootGID() uint32 {
	if t.opt.CreateGroup != nil {
		return *t.opt.CreateGroup
	}
	return ownGID()
}
