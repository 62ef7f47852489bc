package fs

import (
	"context"

	"github.com/hugelgupf/p9/p9"

	"vmfs/backends/hypervisor"
	"vmfs/machine"
)

// backendsKind is the directory of the back ends that this program has. To list it, or
// to walk into it, no hypervisor is asked anything.
var backendsKind = dirKind{
	at:   func(*dir) string { return "backends/" },
	none: "this vmfs has no such back end",
	find: func(d *dir, name string) (file, error) {
		for i, t := range hypervisor.Types() {
			if string(t) == name {
				return newDir(&backendKind, d.node, backendPath(i), t), nil
			}
		}
		return nil, nil
	},
	more: func(d *dir) (l listing) {
		for i, t := range hypervisor.Types() {
			l.entries = append(l.entries, entry{string(t), p9.QID{Type: p9.TypeDir, Version: d.s.version(nil), Path: backendPath(i)}})
		}
		return l
	},
}

func backendPath(i int) uint64 { return qidPath(nil, kindBackend, uint64(i)<<8) }

// backendKind is the directory of one back end, a hypervisor.Type. The files of one
// whose program is missing say so as the error of reading them.
var backendKind = dirKind{
	rows: []row{
		{name: "version", perm: 0o444, help: "its version", begin: ofBackend(func(b []byte, be machine.Backend) ([]byte, error) {
			return append(append(b, be.Version...), '\n'), be.Err
		})},
		{name: "binary", perm: 0o444, help: "its program", begin: ofBackend(func(b []byte, be machine.Backend) ([]byte, error) {
			return append(append(b, be.Binary...), '\n'), be.Err
		})},
		{name: "capabilities", perm: 0o444, help: "what it can do, a word a line", begin: ofBackend(func(b []byte, be machine.Backend) ([]byte, error) {
			return appendWords(b, be.Capabilities), nil
		})},
	},
	at:   func(d *dir) string { return "backends/" + string(d.of.(hypervisor.Type)) + "/" },
	none: "a back end has no such file",
}

// ofBackend asks for the back end when the file is opened, which can wait.
func ofBackend(read func([]byte, machine.Backend) ([]byte, error)) func(context.Context, *node) (row, func(), error) {
	return func(ctx context.Context, n *node) (row, func(), error) {
		be := n.s.tree.host.Backend(ctx, n.of.(hypervisor.Type))
		if ctx.Err() != nil {
			return row{}, nil, be.Err
		}
		return row{read: func(b []byte, _ *node) ([]byte, error) { return read(b, be) }}, nil, nil
	}
}
