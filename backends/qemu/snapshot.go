package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"vmfs/backends/disk"
	"vmfs/backends/hypervisor"
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
	vm   *VM
	dir  string
	m    manifest
	made []string // the files it has made
	// undo puts the VM back into the state it was in, the last step first.
	undo []func(context.Context) error
}

func (vm *VM) snapshot(ctx context.Context, destPath string) error {
	if err := vm.conn.Err(); err != nil {
		return err
	}
	if !vm.caps.SupportsSnapshot {
		return fmt.Errorf("the VM has a PCI device of the host (pci=), whose state cannot be saved: %w", hypervisor.ErrNotSupported)
	}
	if err := vm.free(ctx); err != nil {
		return err
	}
	release, err := vm.occupy(busySnapshot, false)
	if err != nil {
		return err
	}
	s := &saving{vm: vm, dir: destPath}
	over := make(chan error, 1)
	// The VM must be put back even where the caller has gone, and that takes as
	// long as QEMU does.
	if !vm.spawn(func() {
		err := s.run(ctx)
		release()
		over <- err
	}) {
		release()
		return vm.conn.Err()
	}
	select {
	case err := <-over:
		return err
	case <-ctx.Done():
	}
	timer := time.NewTimer(cancelGrace)
	defer timer.Stop()
	select {
	case err := <-over:
		return err
	case <-timer.C:
		return fmt.Errorf("%w; the snapshot is being undone", ctx.Err())
	}
}

// cancelGrace is how long a cancelled snapshot may take to be taken back before
// its caller is let go.
const cancelGrace = 2 * time.Second

func (s *saving) run(ctx context.Context) error {
	err := s.save(ctx)
	if uerr := s.putBack(); uerr != nil {
		err = errors.Join(err, fmt.Errorf("the VM could not be put back as it was: %w", uerr))
	}
	if err == nil {
		err = s.finish(ctx)
	}
	if err != nil {
		for _, path := range s.made {
			if rerr := os.Remove(path); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
				err = errors.Join(err, rerr)
			}
		}
	}
	return err
}

// putBack undoes what was done to the VM. It goes on while the handle is there.
func (s *saving) putBack() error {
	var errs []error
	for i := len(s.undo) - 1; i >= 0; i-- {
		errs = append(errs, s.undo[i](s.vm.ctx))
	}
	s.undo = nil
	return errors.Join(errs...)
}

// save does all for which the VM has to stand still.
func (s *saving) save(ctx context.Context) error {
	vm := s.vm
	status, err := vm.status(ctx)
	if err != nil {
		return err
	}
	running := status == "running"
	if !running && status != "paused" && status != "postmigrate" && !vm.hasRun(status) {
		return fmt.Errorf("a VM that is %s cannot be saved: resume or reset it first: %w", status, hypervisor.ErrBusy)
	}
	if err := s.describe(ctx); err != nil {
		return err
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	memory, err := s.create(memoryFile)
	if err != nil {
		return err
	}
	defer memory.Close()
	if err := s.unplugVsock(ctx, running); err != nil {
		return err
	}
	if running {
		vm.hold(true)
		s.undo = append(s.undo, func(ctx context.Context) error {
			defer vm.hold(false)
			return vm.order(ctx, "cont")
		})
		if err := vm.order(ctx, "stop"); err != nil {
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
	return s.copyDisks(ctx)
}

// hold notes, also for a server to come, that a running VM stands still for a
// snapshot alone.
func (vm *VM) hold(held bool) {
	vm.mu.Lock()
	vm.held = held
	vm.mu.Unlock()
	vm.changeRecord(func(r *record) { r.Resume = held })
}

// hasRun tells whether a guest in the state prelaunch was reset there, after
// having run.
func (vm *VM) hasRun(status string) bool {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	return status == "prelaunch" && vm.ran
}

// describe fills the manifest with what is known beforehand, and refuses what
// cannot be saved.
func (s *saving) describe(ctx context.Context) error {
	rec := s.vm.record()
	if rec == nil {
		return fmt.Errorf("what the VM was started with is not known, since %s is missing or damaged: start it again", s.vm.dir.record())
	}
	var machine string
	args := map[string]any{"path": "/machine", "property": "type"}
	if err := s.vm.conn.Execute(ctx, "qom-get", args, &machine); err != nil {
		return err
	}
	s.m = manifest{
		Format: manifestFormat, Time: time.Now(), Version: rec.Version, Accel: rec.Accel,
		Machine: strings.TrimSuffix(machine, "-machine"), Layout: rec.Layout, Config: rec.Config,
	}
	for _, d := range rec.Config.Disks {
		mark, err := disk.Mark(d)
		if err != nil {
			return err
		}
		s.m.Disks = append(s.m.Disks, mark)
	}
	return nil
}

// create makes a file of the snapshot, to be written only (see transfer).
func (s *saving) create(name string) (*os.File, error) {
	path := filepath.Join(s.dir, name)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		s.made = append(s.made, path)
	}
	return f, err
}

// copyDisks copies the disks that the guest can write. QEMU has written out all
// that the guest has, and writes nothing while the guest stands still.
func (s *saving) copyDisks(ctx context.Context) error {
	for i, d := range s.m.Config.Disks {
		if d.Readonly {
			continue
		}
		name := "disk" + strconv.Itoa(i)
		copied, err := disk.Save(ctx, d.Path, s.dir, name)
		if err != nil {
			return err
		}
		s.made = append(s.made, filepath.Join(s.dir, name))
		s.m.Disks[i] = copied
	}
	return nil
}

// finish does what the VM need not wait for: it sums the memory while that gets to
// the disk, and writes the manifest.
func (s *saving) finish(ctx context.Context) error {
	path := filepath.Join(s.dir, memoryFile)
	synced := make(chan error, 1)
	go func() { synced <- syncFile(path) }()
	var err error
	s.m.Memory, err = disk.Sum(ctx, s.dir, memoryFile)
	if err := errors.Join(<-synced, err); err != nil {
		return err
	}
	s.made = append(s.made, filepath.Join(s.dir, manifestFile))
	return s.m.write(s.dir)
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
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
	ctx, cancel := context.WithTimeout(vm.ctx, cancelWait)
	defer cancel()
	return vm.order(ctx, "stop")
}

// tellProgress reports how much of the memory is written.
func (vm *VM) tellProgress(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var info migrationInfo
	if vm.conn.Execute(ctx, "query-migrate", nil, &info) != nil || info.RAM.Total == 0 {
		return
	}
	vm.events.Put(hypervisor.Event{Kind: hypervisor.EventSnapshot, Time: time.Now(), Detail: []hypervisor.Detail{
		{Key: "done", Value: strconv.FormatInt(info.RAM.Total-info.RAM.Remaining, 10)},
		{Key: "total", Value: strconv.FormatInt(info.RAM.Total, 10)},
		{Key: "rate", Value: strconv.FormatInt(int64(info.RAM.Mbps*1e6/8), 10)},
	}})
}

// recoverSnapshot lets a VM go on that a server had paused for a snapshot, and
// died.
func (vm *VM) recoverSnapshot() {
	release, err := vm.occupy(busySnapshot, false)
	if err != nil {
		return
	}
	defer release()
	err = vm.raw(vm.ctx).MigrateCancel()
	if err == nil {
		err = awaitIdle(vm.ctx, vm.conn)
	}
	if err == nil {
		err = awaitFinal(vm.ctx, vm.conn)
	}
	if err == nil {
		err = vm.order(vm.ctx, "cont")
	}
	if err != nil {
		if vm.ctx.Err() == nil {
			vm.log.Error("a VM that was paused for a snapshot cannot be resumed", "vm", vm.name, "err", err)
		}
		return
	}
	vm.hold(false)
}
