package vz

import (
	"context"
	"fmt"
	"path/filepath"

	"vmfs/backends/disk"
	"vmfs/backends/hypervisor"
	"vmfs/backends/snapshot"
	"vmfs/backends/vz/shimapi"
)

// The files of a snapshot's directory, besides one for every writable disk.
const (
	manifestFile = "vz-snapshot.json"
	stateFile    = "vz.state" // the framework's own
)

const manifestFormat = "vmfs vz snapshot 1"

// snapshots are those of the framework.
var snapshots = snapshot.Kind{VMM: "Virtualization.framework", File: manifestFile, Formats: []string{manifestFormat}}

// A manifest is what a snapshot consists of and what it takes to restore it.
type manifest struct {
	snapshot.Manifest
	State disk.File `json:"state"`
	// Machine and MACs are what the framework wants to find again: "Linux cannot be
	// restored" is what it says where the machine is a new one.
	Machine []byte   `json:"machine"`
	MACs    []string `json:"macs,omitempty"`
	// Target is what the balloon was told, and Actual what the guest had, where that is
	// known.
	Target int64 `json:"target"`
	Actual int64 `json:"actual,omitempty"`
}

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
	rec := vm.record()
	if rec == nil || rec.Report == nil {
		return fmt.Errorf("what the VM was started with is not known, since %s is missing or damaged: start it again", vm.dir.Record())
	}
	dir, err := filepath.Abs(destPath) // the shim's working directory is another
	if err != nil {
		return err
	}
	if _, _, err := vm.status(ctx); err != nil {
		return err // of one that is gone that is what there is to say
	}
	if why := rec.Report.Support.NoSave; why != "" {
		return fmt.Errorf("%s: %w", why, hypervisor.ErrNotSupported)
	}
	s := &saving{Taking: vm.saver().Begin(dir), vm: vm}
	return s.Run(ctx, s.save, s.finish)
}

// saver is how the VM's snapshots are taken.
func (vm *VM) saver() *snapshot.Saver { return vm.Saver(vm.pause, vm.resume) }

// save does all for which the VM has to stand still.
func (s *saving) save(ctx context.Context) error {
	state, info, err := s.vm.status(ctx)
	if err != nil {
		return err
	}
	if state.state != hypervisor.StateRunning && state.state != hypervisor.StatePaused {
		return fmt.Errorf("a VM whose guest does not run cannot be saved: %w", hypervisor.ErrBusy)
	}
	rec := s.vm.record()
	if s.m.Manifest, err = snapshots.Describe(rec.Config, rec.Report.Host.Version); err != nil {
		return err
	}
	s.m.Machine, s.m.MACs, s.m.Target = rec.Report.Machine, rec.MACs, info.Target
	if err := s.Expect(stateFile); err != nil {
		return err
	}
	if state.state == hypervisor.StateRunning {
		if err := s.Still(ctx); err != nil {
			return err
		}
	}
	if err := s.vm.call(ctx, shimapi.MethodSave, shimapi.File{Path: filepath.Join(s.Dir, stateFile)}, nil); err != nil {
		return err
	}
	s.vm.mu.Lock()
	s.m.Actual = s.vm.memory
	s.vm.mu.Unlock()
	return s.CopyDisks(ctx, &s.m.Manifest)
}

// finish does what the VM need not wait for.
func (s *saving) finish(ctx context.Context) (err error) {
	if s.m.State, err = s.Sum(ctx, stateFile); err != nil {
		return err
	}
	return s.Finish(snapshots, &s.m)
}
