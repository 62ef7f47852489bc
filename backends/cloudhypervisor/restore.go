package cloudhypervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"vmfs/backends/cloudhypervisor/api"
	"vmfs/backends/hostnet"
	"vmfs/backends/hypervisor"
	"vmfs/backends/snapshot"
	"vmfs/backends/starter"
	"vmfs/internal/regular"
)

// restore starts a Cloud Hypervisor with the VM that Snapshot wrote to snapshotPath, paused.
//
// Where the VMM may use userfaultfd it reads the guest's memory from the snapshot while the
// guest runs. It has the file open: that the snapshot is removed meanwhile does no harm, but
// its content must not change.
func (s *Starter) restore(ctx context.Context, r starter.Request, snapshotPath string, over *hypervisor.VMConfig) (*VM, error) {
	var m manifest
	if err := snapshots.Read(snapshotPath, &m); err != nil {
		return nil, err
	}
	if over != nil {
		dir, err := dirOf(r.SocketPath)
		if err != nil {
			return nil, err
		}
		dir.placeVsock(over)
	}
	config, err := m.ConfigFor(over, keyBinary, keyFirmware)
	if err != nil {
		return nil, err
	}
	mode := api.RestoreCopy
	if s.canFault() {
		mode = api.RestoreOnDemand
	}
	if err := m.check(ctx, snapshotPath, config, mode); err != nil {
		return nil, err
	}
	pl, err := s.plan(ctx, r, config)
	if err != nil {
		return nil, err
	}
	pl.mode = mode
	if err := pl.dir.Prepare(); err != nil { // before any disk is touched
		return nil, err
	}
	var vm *VM
	err = m.WithDisks(ctx, s.log, pl.dir.Swap(), snapshotPath, config, func() (err error) {
		if vm, err = s.launch(ctx, pl); err != nil {
			return err
		}
		if err = vm.load(ctx, pl, snapshotPath); err != nil {
			if m.Version != pl.program.Version {
				err = fmt.Errorf("%w (the snapshot was written by version %s of Cloud Hypervisor, and this is %s)", err, m.Version, pl.program.Version)
			}
			err = s.abandon(ctx, vm.Child, vm, pl.dir, err)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return vm, nil
}

// load has a VMM that has no VM make that of a snapshot, paused.
func (vm *VM) load(ctx context.Context, pl *plan, snapshotPath string) (err error) {
	source, err := localized(pl, snapshotPath)
	if err != nil {
		return err
	}
	defer os.RemoveAll(source) // the VMM has read it, or has its files open
	restore := api.Restore{Memory: pl.mode}
	var taps []*os.File
	defer func() {
		for _, f := range taps {
			_ = f.Close() // the VMM has its own by now, or never will
		}
	}()
	for i := range pl.config.Networks {
		f, _, err := hostnet.Open(ctx, &pl.config, i, "")
		if err != nil {
			return err
		}
		taps = append(taps, f)
		restore.Nets = append(restore.Nets, api.RestoredNet{ID: apiNet(&pl.config, i).ID, Files: 1})
	}
	return vm.client.Restore(ctx, source, restore, taps...)
}

// localized makes a directory that Cloud Hypervisor can restore from: the snapshot with
// what is the host's in its configuration as it is here.
func localized(pl *plan, snapshotPath string) (dir string, err error) {
	from, err := filepath.Abs(snapshotPath)
	if err != nil {
		return "", err
	}
	saved, err := regular.ReadFile(filepath.Join(from, configFile), maxOwn)
	if err != nil {
		return "", err
	}
	config, err := layHost(saved, pl.vm)
	if err != nil {
		return "", err
	}
	dir = pl.dir.source()
	defer func() {
		if err != nil {
			_ = os.RemoveAll(dir) // the error says enough
		}
	}()
	if err := os.RemoveAll(dir); err != nil { // of a server that was killed in a restore
		return "", err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	made, err := os.OpenRoot(dir) // whatever has its name by then, nothing outside is written
	if err != nil {
		return "", err
	}
	defer made.Close()
	f, err := made.OpenFile(configFile, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		_, err = f.Write(config)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return "", err
	}
	for _, name := range []string{stateFile, memoryFile} {
		if err := made.Symlink(filepath.Join(from, name), name); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// Describe tells how the memory of a VM that was restored is read.
func (vm *VM) Describe() []hypervisor.Detail {
	rec := vm.record()
	if rec == nil || rec.Memory == "" {
		return nil
	}
	how := map[api.MemoryRestoreMode]string{api.RestoreCopy: "copy", api.RestoreOnDemand: "on-demand"}[rec.Memory]
	return []hypervisor.Detail{{Key: "memory.restore", Value: how}}
}

// settleRestore is for a VM whose server was killed after all of it had been
// restored, and before it had put that down.
func (vm *VM) settleRestore() {
	snapshot.Settle(vm.Log, vm.dir.Swap())
	_ = os.RemoveAll(vm.dir.source()) // the next restore tries it again
}
