package cloudhypervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"vmfs/backends/cloudhypervisor/api"
	"vmfs/backends/disk"
	"vmfs/backends/hypervisor"
	"vmfs/backends/snapshot"
	"vmfs/internal/regular"
	"vmfs/internal/wait"
)

// The files of a snapshot's directory, besides one for every writable disk. All but the
// manifest are Cloud Hypervisor's own.
const (
	manifestFile = "cloud-hypervisor-snapshot.json"
	configFile   = "config.json"
	stateFile    = "state.json"
	memoryFile   = "memory-ranges"
)

// maxOwn bounds those of them that are read as a whole: all but the memory.
const maxOwn = 64 << 20

// ownFiles are Cloud Hypervisor's own.
var ownFiles = []string{configFile, stateFile, memoryFile}

const manifestFormat = "vmfs cloud-hypervisor snapshot 1"

// snapshots are those of Cloud Hypervisor.
var snapshots = snapshot.Kind{VMM: "Cloud Hypervisor", File: manifestFile, Formats: []string{manifestFormat}}

// A manifest is what a snapshot consists of and what it takes to restore it.
type manifest struct {
	snapshot.Manifest
	Files []disk.File `json:"files"` // Cloud Hypervisor's own
	// Changed is when anybody last touched the file of the memory: for as long as it is that
	// file and the same time, it is what was summed.
	Changed time.Time `json:"memoryChanged"`
}

// check makes sure that all of the snapshot in dir is there and as it was. The disks are
// those of config. Memory that is read when the guest wants it is not read here either,
// unless the file was touched, or is a copy.
func (m *manifest) check(ctx context.Context, dir string, config hypervisor.VMConfig, mode api.MemoryRestoreMode) error {
	files := m.Files
	for _, name := range ownFiles {
		if !slices.ContainsFunc(files, func(f disk.File) bool { return f.Name == name }) {
			return fmt.Errorf("%s names no %s: %w", filepath.Join(dir, manifestFile), name, hypervisor.ErrInvalid)
		}
	}
	if mode == api.RestoreOnDemand {
		if at, err := changed(filepath.Join(dir, memoryFile)); err == nil && at.Equal(m.Changed) {
			files = slices.DeleteFunc(slices.Clone(files), func(f disk.File) bool { return f.Name == memoryFile })
		}
	}
	return m.Check(ctx, dir, config, files...)
}

// changed is when a file was last written, renamed, linked or given another time.
func changed(path string) (time.Time, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return time.Time{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return time.Unix(st.Ctim.Unix()).UTC(), nil
}

// unsaveable says why a VM with this configuration cannot be saved, and is nil where it can.
func unsaveable(c *hypervisor.VMConfig) error {
	if len(c.PCIDevices) > 0 {
		return fmt.Errorf("the VM has a PCI device of the host (pci=), whose state cannot be saved: %w", hypervisor.ErrNotSupported)
	}
	for _, d := range c.Disks {
		if d.Format == hypervisor.DiskQCOW2 && !d.Readonly {
			// It writes the tables of the image, by which what the guest wrote is found again,
			// when the guest asks for it, and not when the VM is paused.
			return fmt.Errorf("disk %s is a qcow2 that the guest can write, of which Cloud Hypervisor keeps a part in its memory: use format:raw: %w",
				d.Path, hypervisor.ErrNotSupported)
		}
	}
	return nil
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
	rec, err := vm.Known()
	if err != nil {
		return err
	}
	if err := unsaveable(&rec.Config.VMConfig); err != nil {
		return err
	}
	dir, err := filepath.Abs(destPath) // the VMM's working directory is another
	if err != nil {
		return err
	}
	s := &saving{Taking: vm.saver().Begin(dir), vm: vm}
	return s.Run(ctx, s.save, s.finish)
}

// saver is how the VM's snapshots are taken.
func (vm *VM) saver() *snapshot.Saver { return vm.Saver(vm.pause, vm.resume) }

// save does all for which the VM has to stand still.
func (s *saving) save(ctx context.Context) error {
	info, err := s.vm.client.Info(ctx)
	if err != nil {
		return err
	}
	if info.State != api.StateRunning && info.State != api.StatePaused {
		return fmt.Errorf("a VM whose guest does not run cannot be saved: %w", hypervisor.ErrBusy)
	}
	rec := s.vm.record()
	if s.m.Manifest, err = snapshots.Describe(rec.Config, rec.Version); err != nil {
		return err
	}
	if err := s.Expect(ownFiles...); err != nil {
		return err
	}
	if info.State == api.StateRunning {
		if err := s.Still(ctx); err != nil {
			return err
		}
	}
	telling, stop := context.WithCancel(ctx)
	told := make(chan struct{})
	go func() { defer close(told); s.tellProgress(telling) }()
	err = s.write(ctx)
	stop()
	if <-told; err != nil {
		return err
	}
	return s.CopyDisks(ctx, &s.m.Manifest)
}

// write has Cloud Hypervisor write its files. One that still reads the guest's memory from
// another snapshot refuses, before it makes any.
func (s *saving) write(ctx context.Context) error {
	again := wait.Backoff{First: 10 * time.Millisecond, Most: time.Second}
	for {
		err := s.vm.client.Snapshot(ctx, s.Dir)
		var refused *api.Error
		if err == nil || !errors.As(err, &refused) || s.vm.record().Memory != api.RestoreOnDemand {
			return err
		}
		if _, serr := os.Lstat(filepath.Join(s.Dir, configFile)); serr == nil {
			return err
		}
		if ended := again.Wait(ctx); ended != nil {
			return fmt.Errorf("%w (%w)", err, ended)
		}
	}
}

// tellProgress reports every second, until ctx ends, how much of the memory is written. Cloud
// Hypervisor says nothing of it: its file has its whole length from the beginning, and gets its
// blocks as they are written.
func (s *saving) tellProgress(ctx context.Context) {
	var last int64
	for wait.For(ctx, time.Second) == nil {
		var st unix.Stat_t
		if unix.Stat(filepath.Join(s.Dir, memoryFile), &st) != nil {
			continue // it is not there yet
		}
		done := min(st.Blocks*512, st.Size)
		s.vm.Tell(snapshot.Progress(done, st.Size, done-last))
		last = done
	}
}

// finish does what the VM need not wait for.
func (s *saving) finish(ctx context.Context) error {
	for _, name := range ownFiles {
		f, err := s.Sum(ctx, name)
		if err != nil {
			return err
		}
		s.m.Files = append(s.m.Files, f)
		if name == memoryFile {
			continue
		}
		// On a full disk Cloud Hypervisor says that all is well, and has written half of it.
		b, err := regular.ReadFile(filepath.Join(s.Dir, name), maxOwn)
		if err != nil {
			return err
		}
		if !json.Valid(b) {
			return fmt.Errorf("%s: Cloud Hypervisor has not written all of it: the disk may be full", filepath.Join(s.Dir, name))
		}
	}
	var err error
	if s.m.Changed, err = changed(filepath.Join(s.Dir, memoryFile)); err != nil {
		return err
	}
	return s.Finish(snapshots, &s.m)
}

// recoverSnapshot lets a VM go on that a server had paused for a snapshot, and
// died. A VMM that still writes one answers when it has.
func (vm *VM) recoverSnapshot() {
	vm.saver().Recover(func(context.Context) error { return nil })
}
