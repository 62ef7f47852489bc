package fs

import (
	"context"
	"fmt"

	"github.com/hugelgupf/p9/p9"

	"vmfs/machine"
	"vmfs/streams"
	"vmfs/vsock"
)

// streamFiles is how many descriptors a stream takes: its own, and that of the listener
// which it came by.
const streamFiles = 2

// vsockKind is a VM's vsock directory. Any port can be walked to besides; there
// being too many of them, none is listed.
var vsockKind = dirKind{
	base: kindVsock,
	rows: []row{
		{
			name: "clone", perm: 0o666, acts: true, help: "opening makes a conversation, reading yields its name; the open file is its ctl",
			begin: func(_ context.Context, n *node) (row, func(), error) {
				c, err := n.s.tree.guests.Converse(n.vm)
				if err != nil {
					return row{}, nil, err
				}
				return named(c.Name(), c.Command), c.Close, nil
			},
			holds: cost{bytes: streamBytes, descriptors: streamFiles},
		},
		{name: "listen", perm: 0o555, help: "the host's ports", dir: &listenKind},
	},
	at: func(d *dir) string { return d.vm.Name() + "/vsock/" },
	find: func(d *dir, name string) (file, error) {
		if c, ok := d.s.tree.guests.Conversation(d.vm, name); ok {
			return newDir(&convKind, d.node, convPath(d.vm, c), c), nil
		}
		return d.port(name, kindPort, (*streams.Guests).Dial)
	},
	more: func(d *dir) (l listing) {
		for _, c := range d.s.tree.guests.Conversations(d.vm) {
			l.entries = append(l.entries, entry{c.Name(), p9.QID{Type: p9.TypeDir, Version: d.s.version(d.vm), Path: convPath(d.vm, c)}})
		}
		return l
	},
}

// listenKind is the directory of the host's ports. None is listed.
var listenKind = dirKind{
	at: func(d *dir) string { return d.vm.Name() + "/vsock/listen/" },
	find: func(d *dir, name string) (file, error) {
		return d.port(name, kindListen, (*streams.Guests).Accept)
	},
}

// port returns a fid on a port, which opens a stream of its own.
func (d *dir) port(name string, kind uint64, open func(*streams.Guests, context.Context, *machine.VM, uint32) (*streams.Conn, error)) (file, error) {
	port, err := vsock.ParsePort(name)
	if err != nil {
		return nil, fmt.Errorf("%s%s: %w: %w", d.kind.at(d), name, machine.ErrNotFound, err)
	}
	n := node{s: d.s, vm: d.vm, path: qidPath(d.vm, kind, uint64(port)), perm: 0o666}
	return newFile(n, &row{
		name: name, perm: n.perm, acts: true, holds: cost{descriptors: streamFiles},
		stream: func(ctx context.Context, n *node, mode p9.OpenFlags) (streams.Stream, error) {
			s, err := open(n.s.tree.guests, ctx, n.vm, uint32(port))
			if err != nil {
				return nil, err
			}
			if mode.Mode() == p9.WriteOnly {
				s.Discard()
			}
			return s, nil
		},
	}), nil
}

func convPath(vm *machine.VM, c *streams.Conversation) uint64 {
	return qidPath(vm, kindConv, uint64(c.ID())<<2)
}

// convKind is the directory of a conversation. It does not keep the conversation:
// only open files do.
var convKind = dirKind{
	rows: []row{
		{
			name: "ctl", perm: 0o666, acts: true, help: "the conversation's verbs; reading yields its name",
			begin: func(_ context.Context, n *node) (row, func(), error) {
				c := n.of.(*streams.Conversation)
				return named(c.Name(), c.Command), c.Close, c.Open()
			},
			holds: cost{bytes: streamBytes, descriptors: streamFiles},
		},
		{
			name: "data", perm: 0o666, acts: true, help: "the stream, for all who open it",
			stream: func(ctx context.Context, n *node, _ p9.OpenFlags) (streams.Stream, error) {
				return n.of.(*streams.Conversation).Data(ctx)
			},
			holds: cost{descriptors: streamFiles},
		},
		{
			name: "status", perm: 0o444, help: "KEY=VALUE lines: state, port, in, out",
			read: func(b []byte, n *node) ([]byte, error) {
				text, err := n.of.(*streams.Conversation).Status()
				return append(b, text...), err
			},
		},
	},
	at:   func(d *dir) string { return d.vm.Name() + "/vsock/" + d.of.(*streams.Conversation).Name() + "/" },
	none: "a conversation has ctl, data and status",
}
