package vz

import (
	"context"
	"fmt"
	"path/filepath"

	"vmfs/backends/hypervisor"
	"vmfs/backends/starter"
)

// restore starts a shim with the VM that Snapshot wrote to snapshotPath, paused. The machine
// identifier and the MAC addresses stay as they were saved: the framework restores no other.
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
	pl, err := s.plan(ctx, r, config)
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
		if vm, err = s.launch(ctx, pl); err != nil && m.Version != "" && m.Version != pl.program.Version {
			err = fmt.Errorf("%w (the snapshot was written on version %s of the system, and this is %s)", err, m.Version, pl.program.Version)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return vm, nil
}
