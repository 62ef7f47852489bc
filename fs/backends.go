package fs

import (
	"github.com/hugelgupf/p9/p9"

	"vmfs/machine"
)

// backendsKind is the directory of the back ends.
var backendsKind = dirKind{
	at:   func(*dir) string { return "backends/" },
	none: "this vmfs has no such back end",
	find: func(d *dir, name string) (file, error) {
		for i, be := range d.s.tree.host.Backends() {
			if string(be.Type) == name {
				return newDir(&backendKind, d.node, backendPath(i), be), nil
			}
		}
		return nil, nil
	},
	more: func(d *dir) (l listing) {
		for i, be := range d.s.tree.host.Backends() {
			l.entries = append(l.entries, entry{string(be.Type), p9.QID{Type: p9.TypeDir, Version: d.s.tree.version(nil), Path: backendPath(i)}})
		}
		return l
	},
}

func backendPath(i int) uint64 { return qidPath(nil, kindBackend, uint64(i)<<8) }

// backendKind is the directory of one back end, a machine.Backend. The files of one
// whose program is missing say so as the error of reading them.
var backendKind = dirKind{
	rows: []row{
		{name: "version", perm: 0o444, help: "its version", read: backendLine(func(be machine.Backend) string { return be.Version })},
		{name: "binary", perm: 0o444, help: "its program", read: backendLine(func(be machine.Backend) string { return be.Binary })},
		{name: "capabilities", perm: 0o444, help: "what it can do, a word a line", read: func(b []byte, n *node) ([]byte, error) {
			return appendWords(b, n.of.(machine.Backend).Capabilities), nil
		}},
	},
	at:   func(d *dir) string { return "backends/" + string(d.of.(machine.Backend).Type) + "/" },
	none: "a back end has no such file",
}

func backendLine(line func(machine.Backend) string) func([]byte, *node) ([]byte, error) {
	return func(b []byte, n *node) ([]byte, error) {
		be := n.of.(machine.Backend)
		return append(append(b, line(be)...), '\n'), be.Err
	}
}
