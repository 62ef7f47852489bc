package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"vmfs/backends/hypervisor"
)

// RestoreVM starts a QEMU with the VM that Snapshot wrote to snapshotPath, paused,
// with the configuration it had then. The disks that the guest could write get
// back the content they had; what they have now is lost once the VM is there, and
// comes back if it fails.
func (s *Starter) RestoreVM(ctx context.Context, p *hypervisor.Paths, version, socketPath, snapshotPath string) (int, hypervisor.Hypervisor, error) {
	vm, err := s.restoreVM(ctx, p, version, socketPath, snapshotPath)
	if err != nil {
		return 0, nil, fmt.Errorf("qemu: restore %s: %w", filepath.Base(filepath.Dir(socketPath)), err)
	}
	return vm.child.pid(), vm, nil
}

func (s *Starter) restoreVM(ctx context.Context, p *hypervisor.Paths, version, socketPath, snapshotPath string) (*VM, error) {
	m, err := readManifest(ctx, snapshotPath)
	if err != nil {
		return nil, err
	}
	pl, err := s.plan(ctx, p, version, socketPath, m.Config)
	if err != nil {
		return nil, err
	}
	pl.incoming = true
	pl.machine = m.Machine
	if pl.accel != m.Accel {
		// What auto stood for then may be there no more, or more be there now.
		if pl.accel, err = s.host.chooseAccel(m.Accel, pl.arch); err != nil {
			return nil, fmt.Errorf("the snapshot was taken with %s: %w", m.Accel, err)
		}
	}
	memory, err := os.Open(filepath.Join(snapshotPath, m.Memory.File))
	if err != nil {
		return nil, err
	}
	defer memory.Close()
	if err := pl.dir.prepare(ctx); err != nil { // before any disk is touched
		return nil, err
	}
	disks, err := m.putDisks(ctx, snapshotPath)
	if err != nil {
		return nil, err
	}
	vm, err := s.launch(ctx, pl)
	if err == nil {
		t := &transfer{conn: vm.conn, file: memory, mapped: m.Mapped}
		if err = t.run(ctx, nil); err == nil {
			err = vm.expectPaused(ctx)
		}
		if err == nil {
			err = vm.plugVsock(ctx)
		}
		if err != nil {
			err = s.abandon(ctx, vm.child, vm, pl.dir, err)
		}
	}
	if err != nil {
		return nil, errors.Join(err, disks.takeBack())
	}
	disks.settle(s)
	return vm, nil
}

// expectPaused makes sure that what was restored stands still.
func (vm *VM) expectPaused(ctx context.Context) error {
	for {
		status, err := vm.status(ctx)
		if err != nil {
			return err
		}
		if status == "paused" {
			return nil
		}
		if status != "inmigrate" {
			return fmt.Errorf("the restored VM is %s instead of paused", status)
		}
		// The event that all was read may come a moment before the state changes.
		timer := time.NewTimer(chardevPoll)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// swaps are disks that were given other content, and where their own is kept.
type swaps []swap

type swap struct{ disk, kept string }

// putDisks gives the disks the content that the snapshot has of them: all is
// copied beside them first, and then moved into place.
func (m *manifest) putDisks(ctx context.Context, dir string) (done swaps, err error) {
	type put struct{ disk, fresh string }
	var puts []put
	defer func() {
		for _, p := range puts {
			if rerr := os.Remove(p.fresh); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
				err = errors.Join(err, rerr)
			}
		}
		if err != nil {
			err = errors.Join(err, done.takeBack())
			done = nil
		}
	}()
	for i, d := range m.Disks {
		if d.Copy == nil {
			continue
		}
		fresh := beside(d.Path, "restored", i)
		if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if _, _, err := copyFile(ctx, filepath.Join(dir, d.Copy.File), fresh, 0o600); err != nil {
			return nil, fmt.Errorf("disk %s: %w", d.Path, err)
		}
		puts = append(puts, put{d.Path, fresh})
		if err := likeness(d.Path, fresh); err != nil {
			return nil, fmt.Errorf("disk %s: %w", d.Path, err)
		}
	}
	for i, p := range puts {
		kept := beside(p.disk, "before", i)
		if err := os.Remove(kept); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return done, err
		}
		switch err := os.Link(p.disk, kept); {
		case err == nil:
			done = append(done, swap{p.disk, kept})
		case errors.Is(err, fs.ErrNotExist): // the disk was removed since
			done = append(done, swap{p.disk, ""})
		default:
			return done, fmt.Errorf("disk %s: %w", p.disk, err)
		}
		if err := os.Rename(p.fresh, p.disk); err != nil {
			return done, fmt.Errorf("disk %s: %w", p.disk, err)
		}
	}
	return done, nil
}

// beside names a file next to a disk.
func beside(disk, what string, i int) string {
	return filepath.Join(filepath.Dir(disk), "."+filepath.Base(disk)+"."+what+strconv.Itoa(i))
}

// likeness gives a file the owner and mode of another, if that is there.
func likeness(of, to string) error {
	fi, err := os.Stat(of)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := os.Chmod(to, fi.Mode().Perm()); err != nil {
		return err
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && (int(st.Uid) != os.Geteuid() || int(st.Gid) != os.Getegid()) {
		return os.Chown(to, int(st.Uid), int(st.Gid))
	}
	return nil
}

// takeBack gives the disks their own content again.
func (s swaps) takeBack() error {
	var errs []error
	for _, x := range s {
		if x.kept == "" {
			errs = append(errs, os.Remove(x.disk))
		} else {
			errs = append(errs, os.Rename(x.kept, x.disk))
		}
	}
	return errors.Join(errs...)
}

// settle gives up what the disks had.
func (s swaps) settle(st *Starter) {
	for _, x := range s {
		if x.kept == "" {
			continue
		}
		if err := os.Remove(x.kept); err != nil {
			st.log.Warn("the content that a disk had before a restore was not removed", "path", x.kept, "err", err)
		}
	}
}
