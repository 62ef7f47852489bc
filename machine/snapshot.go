package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"vmfs/backends/hypervisor"
	"vmfs/internal/durable"
	"vmfs/internal/regular"
	"vmfs/machine/config"
	"vmfs/machine/events"
)

// A snapshot is a directory of three: what the back end wrote (vmm), the
// configuration that the VM ran with (config), and which VM it is of (snapshot.json).
// It is made aside and moved into place when it is whole.
const (
	snapshotVMM  = "vmm"
	snapshotInfo = "snapshot.json"
)

// snapshotRecord is snapshot.json.
type snapshotRecord struct {
	Format       int             `json:"format"`
	VM           string          `json:"vm"`
	UUID         string          `json:"uuid"`
	Backend      hypervisor.Type `json:"hypervisor"`
	Version      string          `json:"version,omitempty"`
	Time         time.Time       `json:"time"`
	MemoryTarget int64           `json:"memoryTarget"`
	VsockCID     int64           `json:"vsockCID,omitempty"` // that was picked for the guest
}

// The formats of snapshot.json.
const (
	snapshotBackend = 1 // has "backend" where later ones have "hypervisor"
	snapshotFormat  = 2
)

func (v *VM) snapshotDir(name string) string { return filepath.Join(v.dir, snapshotsDir, name) }

// Snapshot saves the VM under a name, ErrExists if there is one. The VM is in the
// same state after it as before.
func (v *VM) Snapshot(ctx context.Context, name string) error {
	return v.live(ctx, "snapshot", v.host.opts.Timeouts.Snapshot, func(ctx context.Context, s *session) (err error) {
		if err := CheckName(name); err != nil {
			return err
		}
		if _, err := os.Lstat(v.snapshotDir(name)); err == nil {
			return fmt.Errorf("%s %w", name, ErrExists)
		}
		hv, err := s.handle(ctx)
		if err != nil {
			return err
		}
		parent := filepath.Join(v.dir, snapshotsDir)
		if err := os.Mkdir(parent, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		aside, err := os.MkdirTemp(parent, durable.NewPrefix+name+"-")
		if err != nil {
			return err
		}
		defer func() {
			if err != nil {
				os.RemoveAll(aside)
			}
		}()
		vmm := filepath.Join(aside, snapshotVMM)
		if err := os.Mkdir(vmm, 0o700); err != nil {
			return err
		}
		status, uuid := v.Status(), v.UUID()
		info, err := json.MarshalIndent(snapshotRecord{
			Format: snapshotFormat, VM: v.name, UUID: uuid, Backend: s.typ, Version: status.Version,
			Time: time.Now(), MemoryTarget: status.MemoryTarget, VsockCID: v.pickedCID(),
		}, "", "\t")
		if err != nil {
			return err
		}
		if err := hv.Snapshot(ctx, vmm); err != nil {
			return err
		}
		if err := durable.Replace(filepath.Join(aside, configFile), []byte(v.Config().String())); err != nil {
			return err
		}
		if err := durable.Replace(filepath.Join(aside, snapshotInfo), append(info, '\n')); err != nil {
			return err
		}
		if err := os.Rename(aside, v.snapshotDir(name)); err != nil {
			return err
		}
		if err := durable.SyncDir(parent); err != nil {
			return err
		}
		v.emitSnapshot(name, "taken")
		return nil
	})
}

func (v *VM) emitSnapshot(name, done string) {
	v.emit(events.Event{Kind: events.KindSnapshot, Detail: []hypervisor.Detail{{Key: "name", Value: name}, {Key: "done", Value: done}}})
}

// Restore brings the VM back as it was saved, paused, in a new VMM. Its
// configuration becomes that of the snapshot, with changes, which are lines
// of a config, merged into it: those can say where disks, a kernel and so on are now.
func (v *VM) Restore(ctx context.Context, name string, changes ...string) error {
	return v.run(ctx, "restore", v.host.opts.Timeouts.Snapshot, func(ctx context.Context) error {
		if err := CheckName(name); err != nil {
			return err
		}
		dir := v.snapshotDir(name)
		info, err := v.readSnapshot(name)
		if err != nil {
			return err
		}
		if info.UUID != v.UUID() {
			return fmt.Errorf("snapshot %s was taken of another VM (%s, uuid %s): %w", name, info.VM, info.UUID, hypervisor.ErrInvalid)
		}
		text, err := regular.ReadFile(filepath.Join(dir, configFile), maxFile)
		if err != nil {
			return err
		}
		saved, err := config.Parse(string(text))
		if err != nil {
			return fmt.Errorf("snapshot %s: %w", name, err)
		}
		cfg, err := saved.Merge(strings.Join(changes, "\n"))
		if err != nil {
			return err
		}
		for _, key := range config.Changed(saved, cfg) {
			if key == "hypervisor" || key == "memory" {
				return fmt.Errorf("%s is part of the saved VM and cannot change in a restore: %w", key, hypervisor.ErrInvalid)
			}
		}
		if err := v.launch(ctx, "restore", launching{
			typ:    info.Backend,
			phase:  phaseRestoring,
			state:  hypervisor.StatePaused,
			memory: info.MemoryTarget,
			auto:   cfg.AutoCID(),
			cid:    info.VsockCID,
			spawn: func(ctx context.Context, starter hypervisor.VMStarter, socket string) (int, hypervisor.Hypervisor, error) {
				vmm := filepath.Join(dir, snapshotVMM)
				if r, ok := starter.(hypervisor.ConfigRestorer); ok {
					return v.withCID(cfg, func() (int, hypervisor.Hypervisor, error) {
						return r.RestoreVMWith(ctx, v.host.opts.Paths, "", socket, vmm, v.vmConfig(cfg))
					})
				}
				return starter.RestoreVM(ctx, v.host.opts.Paths, "", socket, vmm)
			},
		}); err != nil {
			return err
		}
		if cfg.String() != v.Config().String() {
			if err := v.saveConfig(cfg); err != nil {
				v.host.log.Error("cannot write the config of the snapshot", "vm", v.name, "err", err)
			}
		}
		v.emitSnapshot(name, "restored")
		return nil
	})
}

func (v *VM) readSnapshot(name string) (snapshotRecord, error) {
	var info snapshotRecord
	b, err := regular.ReadFile(filepath.Join(v.snapshotDir(name), snapshotInfo), maxFile)
	switch {
	case errors.Is(err, os.ErrNotExist):
		err = ErrNotFound
	case err == nil:
		err = info.parse(b)
	}
	if err != nil {
		return info, fmt.Errorf("snapshot %s: %w", name, err)
	}
	return info, nil
}

func (s *snapshotRecord) parse(b []byte) error {
	err := json.Unmarshal(b, s)
	switch {
	case err != nil:
	case s.Format == snapshotBackend:
		s.Backend, err = oldBackend(b)
	case s.Format != snapshotFormat:
		err = fmt.Errorf("its format is %d, this server knows %d to %d: %w", s.Format, snapshotBackend, snapshotFormat, hypervisor.ErrInvalid)
	}
	return err
}

// snapshotUUID returns the uuid of the VM as its snapshots have it, "" without
// any.
func (v *VM) snapshotUUID() string {
	names, err := v.Snapshots()
	if err != nil {
		return ""
	}
	for _, name := range names {
		if info, err := v.readSnapshot(name); err == nil && info.VM == v.name {
			return info.UUID
		}
	}
	return ""
}

// Snapshots returns the names of the VM's snapshots, sorted.
func (v *VM) Snapshots() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(v.dir, snapshotsDir))
	if durable.IgnoreMissing(err) != nil {
		return nil, fmt.Errorf("machine: snapshots of %s: %w", v.name, err)
	}
	names := []string{}
	for _, e := range entries {
		if e.IsDir() && CheckName(e.Name()) == nil {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// DeleteSnapshot removes a snapshot.
func (v *VM) DeleteSnapshot(ctx context.Context, name string) error {
	return v.run(ctx, "delete-snapshot", v.host.opts.Timeouts.Verb, func(ctx context.Context) error {
		if err := CheckName(name); err != nil {
			return err
		}
		if _, err := os.Lstat(v.snapshotDir(name)); errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("%s: %w", name, ErrNotFound)
		}
		if err := v.host.remove(ctx, v.snapshotDir(name)); err != nil {
			return err
		}
		v.emitSnapshot(name, "removed")
		return nil
	})
}

// SnapshotInfo is what is known of a snapshot.
type SnapshotInfo struct {
	Backend      hypervisor.Type
	Version      string // of the VMM that wrote it
	Time         time.Time
	MemoryTarget int64
	Bytes        int64  // of what the VMM wrote
	Config       string // the VM's configuration then, as text
}

// SnapshotInfo tells of one snapshot; ErrNotFound if there is none of that name.
func (v *VM) SnapshotInfo(name string) (SnapshotInfo, error) {
	fail := func(err error) (SnapshotInfo, error) {
		return SnapshotInfo{}, fmt.Errorf("machine: look at %s: %w", v.name, err)
	}
	if err := CheckName(name); err != nil {
		return fail(fmt.Errorf("snapshot %q: %w", name, ErrNotFound)) // none has such a name
	}
	rec, err := v.readSnapshot(name)
	if err != nil {
		return fail(err)
	}
	dir := v.snapshotDir(name)
	text, err := regular.ReadFile(filepath.Join(dir, configFile), maxFile)
	if err != nil {
		return fail(err)
	}
	info := SnapshotInfo{Backend: rec.Backend, Version: rec.Version, Time: rec.Time, MemoryTarget: rec.MemoryTarget, Config: string(text)}
	err = filepath.WalkDir(filepath.Join(dir, snapshotVMM), func(_ string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		fi, err := e.Info()
		if err == nil {
			info.Bytes += fi.Size()
		}
		return err
	})
	if err != nil {
		return fail(err)
	}
	return info, nil
}
