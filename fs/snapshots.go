package fs

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"

	"vmfs/machine"
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

func (t *Tree) snapshotQID(vm *machine.VM, name string) p9.QID {
	return p9.QID{Type: p9.TypeDir, Version: vm.Gen(), Path: qidPath(vm, kindSnapshot, t.snapshots.id(vm, name)<<2)}
}

// snapshotsKind is the directory of a VM's snapshots.
var snapshotsKind = dirKind{
	find: func(d *dir, name string) (file, error) {
		info, err := d.vm.SnapshotInfo(name)
		if err != nil {
			return nil, err
		}
		return newDir(&snapshotKind, d.node, d.s.tree.snapshotQID(d.vm, name).Path, snapshot{name, info}), nil
	},
	more: func(d *dir) (l listing) {
		names, err := d.vm.Snapshots()
		if err != nil {
			d.s.tree.opt.Log.Error("snapshots not listed", "vm", d.vm.Name(), "error", err)
		}
		for _, name := range names {
			l.entries = append(l.entries, entry{name, d.s.tree.snapshotQID(d.vm, name)})
		}
		return l
	},
	make: func(ctx context.Context, d *dir, name string, _ uint32, _ p9.GID) (p9.QID, error) {
		if err := d.may(mayWrite, "take snapshot", name); err != nil {
			return p9.QID{}, err
		}
		if err := d.vm.Snapshot(ctx, name); err != nil {
			return p9.QID{}, fail(err)
		}
		return d.s.tree.snapshotQID(d.vm, name), nil
	},
	unlink: func(ctx context.Context, d *dir, name string, dir bool) error {
		if err := d.may(mayWrite, "remove snapshot", name); err != nil {
			return err
		}
		if !dir {
			return failf(linux.EISDIR, "%s is a snapshot: remove it with rmdir", name)
		}
		return d.vm.DeleteSnapshot(ctx, name)
	},
}

type snapshot struct {
	name string
	machine.SnapshotInfo
}

// snapshotKind is the directory of one snapshot.
var snapshotKind = dirKind{
	rows: []row{
		{name: "config", perm: 0o444, help: "the configuration that the VM ran with", read: func(b []byte, n *node) ([]byte, error) {
			return append(b, n.of.(snapshot).Config...), nil
		}},
		{name: "info", perm: 0o444, help: "KEY=VALUE lines: hypervisor, version, time, memory.target, bytes", read: func(b []byte, n *node) ([]byte, error) {
			info := n.of.(snapshot)
			b = appendKey(b, "hypervisor", string(info.Backend))
			b = appendKey(b, "version", info.Version)
			b = appendKey(b, "time", info.Time.UTC().Format(time.RFC3339))
			b = appendKey(b, "memory.target", strconv.FormatInt(info.MemoryTarget, 10))
			return appendKey(b, "bytes", strconv.FormatInt(info.Bytes, 10)), nil
		}},
	},
	at:   func(d *dir) string { return d.vm.Name() + "/snapshots/" + d.of.(snapshot).name + "/" },
	none: "a snapshot has config and info",
}
