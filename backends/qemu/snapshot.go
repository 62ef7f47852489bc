package qemu

import (
	"context"
	"fmt"
	"strings"

	"vmfs/backends/handle"
	"vmfs/backends/hypervisor"
	"vmfs/backends/snapshot"
)

// Snapshot writes the VM into the directory destPath, which is made if it is not
// there: its memory and devices, a copy of every disk that the guest can write, and
// last a manifest with sizes and checksums. Without the manifest there is no
// snapshot. When it fails its files are removed.
//
// The VM stands still until its state and disks are copied, and then is as it was.
func (vm *VM) Snapshot(ctx context.Context, destPath string) error {
	return vm.wrap("snapshot", vm.snapshot(ctx, destPath))
}

// A saving is one snapshot being written.
type saving struct {
	*snapshot.Taking
	vm *VM
	m  manifest
}

func (vm *VM) snapshot(ctx context.Context, destPath string) error {
	if err := vm.conn.Err(); err != nil {
		return err
	}
	if !vm.Capabilities().SupportsSnapshot {
		return fmt.Errorf("the VM has a PCI device of the host (pci=), whose state cannot be saved: %w", hypervisor.ErrNotSupported)
	}
	s := &saving{Taking: vm.saver().Begin(destPath), vm: vm}
	return s.Run(ctx, s.save, s.finish)
}

// saver is how the VM's snapshots are taken.
func (vm *VM) saver() *snapshot.Saver {
	return vm.Saver(vm.stop, func(ctx context.Context) error { return vm.order(ctx, "cont") })
}

// save does all for which the VM has to stand still.
func (s *saving) save(ctx context.Context) error {
	vm := s.vm
	status, err := vm.status(ctx)
	if err != nil {
		return err
	}
	running := status == "running"
	reset := status == "prelaunch" && vm.Ran() // which was not its first state
	if !running && status != "paused" && status != "postmigrate" && !reset {
		return fmt.Errorf("a VM that is %s cannot be saved: resume or reset it first: %w", status, hypervisor.ErrBusy)
	}
	if err := s.describe(ctx); err != nil {
		return err
	}
	memory, err := s.Create(memoryFile)
	if err != nil {
		return err
	}
	defer memory.Close()
	if err := s.unplugVsock(ctx, running); err != nil {
		return err
	}
	if running {
		if err := s.Still(ctx); err != nil {
			return err
		}
	} else if status == "postmigrate" {
		// QEMU refuses to save a VM twice that has not run in between.
		if err := vm.blink(ctx); err != nil {
			return err
		}
	}
	if err := s.ejectVsock(ctx); err != nil {
		return err
	}
	s.m.Mapped = mapsRAM(vm.conn.Version())
	t := &transfer{conn: vm.conn, file: memory, mapped: s.m.Mapped, out: true}
	if err := t.run(ctx, vm.tellProgress); err != nil {
		return err
	}
	return s.CopyDisks(ctx, &s.m.Manifest)
}

// describe fills the manifest with what is known beforehand, and refuses what
// cannot be saved.
func (s *saving) describe(ctx context.Context) error {
	if _, err := s.vm.Known(); err != nil {
		return err
	}
	rec := s.vm.record()
	var machine string
	args := map[string]any{"path": "/machine", "property": "type"}
	if err := s.vm.conn.Execute(ctx, "qom-get", args, &machine); err != nil {
		return err
	}
	m, err := snapshots.Describe(rec.Config, rec.Version)
	s.m = manifest{Manifest: m, Accel: rec.Accel, Machine: strings.TrimSuffix(machine, "-machine"), Layout: rec.Layout}
	return err
}

// finish does what the VM need not wait for.
func (s *saving) finish(ctx context.Context) (err error) {
	if s.m.Memory, err = s.Sum(ctx, memoryFile); err != nil {
		return err
	}
	return s.Finish(snapshots, &s.m)
}

// blink lets a VM run for the moment between two commands, and keeps it out of the
// events.
func (vm *VM) blink(ctx context.Context) error {
	vm.mu.Lock()
	vm.unsaid++
	vm.mu.Unlock()
	if err := vm.order(ctx, "cont"); err != nil {
		vm.mu.Lock()
		vm.unsaid--
		vm.mu.Unlock()
		return err
	}
	// It must be stopped again, whoever has gone.
	ctx, cancel := context.WithTimeout(vm.Life, cancelWait)
	defer cancel()
	return vm.stop(ctx)
}

// tellProgress reports how much of the memory is written.
func (vm *VM) tellProgress(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, handle.AskTimeout)
	defer cancel()
	var info migrationInfo
	if vm.conn.Execute(ctx, "query-migrate", nil, &info) != nil || info.RAM.Total == 0 {
		return
	}
	vm.Tell(snapshot.Progress(info.RAM.Total-info.RAM.Remaining, info.RAM.Total, int64(info.RAM.Mbps*1e6/8)))
}

// recoverSnapshot lets a VM go on that a server had paused for a snapshot, and
// died.
func (vm *VM) recoverSnapshot() {
	vm.saver().Recover(func(ctx context.Context) error {
		err := vm.raw(ctx).MigrateCancel()
		if err == nil {
			err = awaitIdle(ctx, vm.conn)
		}
		if err == nil {
			err = awaitFinal(ctx, vm.conn)
		}
		return err
	})
}
