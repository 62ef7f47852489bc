package vz

import (
	"context"
	"fmt"
	"path/filepath"

	"vmfs/backends/hypervisor"
)

// RestoreVM starts a shim with the VM that Snapshot wrote to snapshotPath, paused, with the
// configuration it had then. The disks that the guest could write get back the content
// they had; what they have now is lost once the VM is there, and comes back if it fails.
func (s *Starter) RestoreVM(ctx context.Context, p *hypervisor.Paths, version, socketPath, snapshotPath string) (int, hypervisor.Hypervisor, error) {
	return s.restore(ctx, p, version, socketPath, snapshotPath, nil)
}

// RestoreVMWith is RestoreVM with this host's configuration. See hypervisor.ConfigRestorer.
// The machine identifier and the MAC addresses stay as they were saved: the framework
// restores no other.
func (s *Starter) RestoreVMWith(ctx context.Context, p *hypervisor.Paths, version, socketPath, snapshotPath string, config hypervisor.VMConfig) (int, hypervisor.Hypervisor, error) {
	return s.restore(ctx, p, version, socketPath, snapshotPath, &config)
}

func (s *Starter) restore(ctx context.Context, p *hypervisor.Paths, version, socketPath, snapshotPath string, over *hypervisor.VMConfig) (int, hypervisor.Hypervisor, error) {
	vm, err := s.restoreVM(ctx, p, version, socketPath, snapshotPath, over)
	if err != nil {
		return 0, nil, fmt.Errorf("vz: restore %s: %w", filepath.Base(filepath.Dir(socketPath)), err)
	}
	return vm.child.PID, vm, nil
}

// restoreVM restores with the configuration over laid over the saved one, unless it is nil.
func (s *Starter) restoreVM(ctx context.Context, p *hypervisor.Paths, version, socketPath, snapshotPath string, over *hypervisor.VMConfig) (*VM, error) {
	var m manifest
	if err := snapshots.Read(snapshotPath, &m); err != nil {
		return nil, err
	}
	if over != nil {
		dir, err := dirOf(socketPath)
		if err != nil {
			return nil, err
		}
		dir.placeVsock(over)
	}
	config, err := m.ConfigFor(over, keyBinary, keyNetSocket)
	if err != nil {
		return nil, err
	}
	if len(m.MACs) != len(config.Networks) || m.State.Name != stateFile {
		return nil, fmt.Errorf("%s does not say what its VM is: %w", filepath.Join(snapshotPath, manifestFile), hypervisor.ErrInvalid)
	}
	for i, mac := range m.MACs {
		config.Networks[i].MAC = mac
	}
	if err := m.Check(ctx, snapshotPath, config, m.State); err != nil {
		return nil, err
	}
	pl, err := s.plan(ctx, p, version, socketPath, config)
	if err != nil {
		return nil, err
	}
	pl.vm.Machine, pl.memory = m.Machine, m.Actual
	if pl.vm.Target = m.Target; pl.vm.Target == pl.vm.Memory {
		pl.vm.Target = 0
	}
	if pl.state, err = filepath.Abs(filepath.Join(snapshotPath, stateFile)); err != nil {
		return nil, err
	}
	if err := pl.dir.Prepare(); err != nil { // before any disk is touched
		return nil, err
	}
	var vm *VM
	err = m.WithDisks(ctx, s.log.With("vm", pl.config.Name), pl.dir.Swap(), snapshotPath, config, func() (err error) {
		if vm, err = s.launch(ctx, pl); err != nil && m.Version != "" {
			if host, herr := s.host(ctx, pl.binary); herr == nil && host.Version != m.Version {
				err = fmt.Errorf("%w (the snapshot was written on version %s of the system, and this is %s)", err, m.Version, host.Version)
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return vm, nil
}
