package fs

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"

	"vmfs/machine"
	"vmfs/machine/rc"
)

// snapshotIDs gives the snapshots of all VMs numbers for their qids, which a name
// keeps for the life of the tree. The zero value is ready.
type snapshotIDs struct {
	mu  sync.Mutex // guards ids
	ids map[snapshotKey]uint64
}

type snapshotKey struct {
	vm   uint64
	name string
}

func (s *snapshotIDs) id(vm *machine.VM, name string) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := snapshotKey{vm.ID(), name}
	id, ok := s.ids[k]
	if !ok {
		if s.ids == nil {
			s.ids = make(map[snapshotKey]uint64)
		}
		id = uint64(len(s.ids)) + 1
		s.ids[k] = id
	}
	return id
}

// snapshotsDir returns a fid on the directory of a VM's snapshots, where rmdir
// deletes one.
func snapshotsDir(n node, parent *dir) *dir {
	n.typ = p9.TypeDir
	d := &dir{node: n, parent: parent}
	ids := &n.s.tree.snapshots
	qid := func(name string) p9.QID {
		return p9.QID{Type: p9.TypeDir, Version: n.vm.Gen(), Path: qidPath(n.vm, kindSnapshot, ids.id(n.vm, name)<<2)}
	}
	d.lookup = func(name string) (file, error) {
		info, err := n.vm.SnapshotInfo(name)
		if err != nil {
			return nil, fail(err)
		}
		sn := n
		sn.path = qid(name).Path
		return snapshotDir(sn, d, name, info), nil
	}
	d.list = func() (l listing) {
		names, err := n.vm.Snapshots()
		if err != nil {
			n.s.tree.opt.Log.Error("snapshots not listed", "vm", n.vm.Name(), "error", err)
		}
		for _, name := range names {
			l.entries = append(l.entries, entry{name, qid(name)})
		}
		return l
	}
	d.unlink = func(ctx context.Context, name string, dir bool) error {
		if err := d.may(mayWrite, "remove snapshot "+name); err != nil {
			return err
		}
		if !dir {
			return failf(linux.EISDIR, "%s is a snapshot: remove it with rmdir", name)
		}
		return fail(n.vm.DeleteSnapshot(ctx, name))
	}
	return d
}

// snapshotDir returns a fid on the directory of one snapshot.
func snapshotDir(n node, parent *dir, name string, info machine.SnapshotInfo) *dir {
	d := &dir{node: n, parent: parent}
	rows := []row{
		{name: "config", perm: 0o444, read: func(b []byte, _ *node) ([]byte, error) { return append(b, info.Config...), nil }},
		{name: "info", perm: 0o444, read: func(b []byte, _ *node) ([]byte, error) { return appendSnapshot(b, info), nil }},
	}
	qid := func(i int) p9.QID {
		return p9.QID{Version: n.vm.Gen(), Path: n.path + uint64(i) + 1}
	}
	d.lookup = func(leaf string) (file, error) {
		i, ok := findRow(rows, leaf)
		if !ok {
			return nil, fail(fmt.Errorf("%s/snapshots/%s/%s: %w", n.vm.Name(), name, leaf, machine.ErrNotFound))
		}
		return &textFile{node: node{s: n.s, vm: n.vm, path: qid(i).Path, perm: rows[i].perm}, row: &rows[i]}, nil
	}
	d.list = func() (l listing) {
		for i := range rows {
			l.entries = append(l.entries, entry{rows[i].name, qid(i)})
		}
		return l
	}
	return d
}

func appendSnapshot(b []byte, info machine.SnapshotInfo) []byte {
	for _, kv := range [][2]string{
		{"backend", string(info.Backend)},
		{"version", info.Version},
		{"time", info.Time.UTC().Format(time.RFC3339)},
		{"memory.target", strconv.FormatInt(info.MemoryTarget, 10)},
		{"bytes", strconv.FormatInt(info.Bytes, 10)},
	} {
		if kv[1] != "" {
			b = append(b, kv[0]+"="+rc.Quote(kv[1])+"\n"...)
		}
	}
	return b
}
