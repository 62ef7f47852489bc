package fs

import (
	"context"
	"fmt"
	"strconv"

	"github.com/hugelgupf/p9/p9"

	"vmfs/machine"
	"vmfs/vsock"
)

// The fixed files of vsock, as the last part of their qids.
const (
	vsockClone = iota + 1
	vsockListen
)

// vsockDir returns a fid on a VM's vsock directory: clone, listen and the
// conversations there are. Any port can be walked to besides; there being too
// many of them, none is listed.
func vsockDir(n node, parent *dir) *dir {
	n.typ = p9.TypeDir
	d := &dir{node: n, parent: parent}
	v, vm := n.s.tree.vsock, n.vm
	d.lookup = func(name string) (file, error) {
		switch name {
		case "clone":
			return vsockFile(n, kindVsock, vsockClone, "vsock/clone", func(_ context.Context, n *node, _ p9.OpenFlags) (stream, error) {
				return v.converse(n.vm)
			}), nil
		case "listen":
			return vsockListenDir(n, d), nil
		}
		if c, ok := v.conversation(vm, name); ok {
			return convDir(n, d, c), nil
		}
		port, err := parsePort(vm, "vsock/"+name, name)
		if err != nil {
			return nil, err
		}
		return vsockFile(n, kindPort, uint64(port), "vsock/"+name, func(ctx context.Context, n *node, mode p9.OpenFlags) (stream, error) {
			s, err := v.dial(ctx, n.vm, port)
			return s.opened(mode), err
		}), nil
	}
	d.list = func() listing {
		list := []entry{
			{"clone", p9.QID{Path: qidPath(vm, kindVsock, vsockClone)}},
			{"listen", p9.QID{Type: p9.TypeDir, Path: qidPath(vm, kindVsock, vsockListen)}},
		}
		for _, c := range v.conversations(vm) {
			list = append(list, entry{c.name, c.qid(convSelf)})
		}
		return listing{entries: list}
	}
	return d
}

// vsockListenDir returns a fid on the directory of the host's ports. None is
// listed.
func vsockListenDir(n node, parent *dir) *dir {
	n.path = qidPath(n.vm, kindVsock, vsockListen)
	v := n.s.tree.vsock
	return &dir{
		node: n, parent: parent,
		lookup: func(name string) (file, error) {
			port, err := parsePort(n.vm, "vsock/listen/"+name, name)
			if err != nil {
				return nil, err
			}
			return vsockFile(n, kindListen, uint64(port), "vsock/listen/"+name, func(ctx context.Context, n *node, mode p9.OpenFlags) (stream, error) {
				s, err := v.accept(ctx, n.vm, port)
				return s.opened(mode), err
			}), nil
		},
		list: func() listing { return listing{} },
	}
}

// vsockFile returns a fid on a stream file of the VM that n belongs to.
func vsockFile(n node, kind, which uint64, name string, open opener) *streamFile {
	return &streamFile{node: node{s: n.s, vm: n.vm, path: qidPath(n.vm, kind, which), perm: 0o666}, name: name, open: open}
}

func parsePort(vm *machine.VM, path, name string) (uint32, error) {
	port, err := vsock.ParsePort(name)
	if err != nil {
		return 0, fail(fmt.Errorf("%s/%s: %w: %w", vm.Name(), path, machine.ErrNotFound, err))
	}
	return uint32(port), nil
}

// The files of a conversation, as the last part of their qids.
const (
	convSelf = iota
	convCtlFile
	convDataFile
	convStatusFile
)

func (c *conversation) qid(file uint64) p9.QID {
	q := p9.QID{Path: qidPath(c.vm, kindConv, uint64(c.id)<<2|file)}
	if file == convSelf {
		q.Type = p9.TypeDir
	}
	return q
}

// convDir returns a fid on the directory of a conversation. It does not keep the
// conversation: only open files do.
func convDir(n node, parent *dir, c *conversation) *dir {
	n.path = c.qid(convSelf).Path
	d := &dir{node: n, parent: parent}
	path := "vsock/" + c.name + "/"
	d.lookup = func(name string) (file, error) {
		which := func(i uint64) uint64 { return uint64(c.id)<<2 | i }
		switch name {
		case "ctl":
			return vsockFile(n, kindConv, which(convCtlFile), path+name, c.openCtl), nil
		case "data":
			return vsockFile(n, kindConv, which(convDataFile), path+name, c.openData), nil
		case "status":
			n := node{s: n.s, vm: n.vm, path: c.qid(convStatusFile).Path, perm: 0o444}
			return &textFile{node: n, row: &row{name: path + name, perm: 0o444, read: func(b []byte, _ *node) ([]byte, error) {
				return c.appendStatus(b)
			}}}, nil
		}
		return nil, fail(fmt.Errorf("%s/%s%s: %w: a conversation has ctl, data and status", c.vm.Name(), path, name, machine.ErrNotFound))
	}
	d.list = func() listing {
		return listing{entries: []entry{{"ctl", c.qid(convCtlFile)}, {"data", c.qid(convDataFile)}, {"status", c.qid(convStatusFile)}}}
	}
	return d
}

// opened makes a stream of its own the one of a fid that was opened by mode. A
// nil s is none.
func (s *vsockStream) opened(mode p9.OpenFlags) stream {
	if s == nil {
		return nil
	}
	if mode.Mode() == p9.WriteOnly {
		s.discard() // a guest that answers would wait for a reader, and then stop reading itself
	}
	return ownStream{s}
}

// ownStream is a stream that one fid has alone.
type ownStream struct{ s *vsockStream }

func (o ownStream) read(ctx context.Context, p []byte) (int, error)  { return o.s.read(ctx, p) }
func (o ownStream) write(ctx context.Context, p []byte) (int, error) { return o.s.write(ctx, p) }
func (o ownStream) close()                                           { o.s.close() }
func (o ownStream) bytes()                                           {}

func portName(port uint32) string { return strconv.FormatUint(uint64(port), 10) }
