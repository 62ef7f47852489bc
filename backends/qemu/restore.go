package qemu

import (
	"context"
	"fmt"
	"path/filepath"

	"vmfs/backends/hypervisor"
	"vmfs/backends/snapshot"
	"vmfs/backends/starter"
	"vmfs/internal/regular"
	"vmfs/internal/wait"
)

// restore starts a QEMU with the VM that Snapshot wrote to snapshotPath, paused.
func (s *Starter) restore(ctx context.Context, r starter.Request, snapshotPath string, over *hypervisor.VMConfig) (*VM, error) {
	m, err := readManifest(snapshotPath)
	if err != nil {
		return nil, err
	}
	config, err := m.ConfigFor(over, "qemu.binary", "qemu.firmware")
	if err != nil {
		return nil, err
	}
	if err := m.check(ctx, snapshotPath, config); err != nil {
		return nil, err
	}
	pl, err := s.plan(ctx, r, config)
	if err != nil {
		return nil, err
	}
	pl.layout = m.Layout
	pl.incoming = true
	pl.machine = m.Machine
	if pl.accel != m.Accel {
		// What auto stood for then may be there no more, or more be there now.
		if pl.accel, err = s.host.chooseAccel(m.Accel, pl.arch); err != nil {
			return nil, fmt.Errorf("the snapshot was taken with qemu.accel=%s: %w", m.Accel, err)
		}
	}
	memory, err := regular.Open(filepath.Join(snapshotPath, m.Memory.Name))
	if err != nil {
		return nil, err
	}
	defer memory.Close()
	if err := pl.dir.Prepare(); err != nil { // before any disk is touched
		return nil, err
	}
	var vm *VM
	err = m.WithDisks(ctx, s.log, pl.dir.Swap(), snapshotPath, config, func() (err error) {
		vm, err = s.launch(ctx, pl)
		if err != nil {
			return err
		}
		t := &transfer{conn: vm.conn, file: memory, mapped: m.Mapped}
		if err = t.run(ctx, nil); err == nil {
			err = vm.expectPaused(ctx)
		}
		if err == nil {
			err = vm.plugVsock(ctx)
		}
		if err != nil {
			err = s.abandon(ctx, vm.Child, vm, pl.dir, err)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return vm, nil
}

// expectPaused makes sure that what was restored stands still.
func (vm *VM) expectPaused(ctx context.Context) error {
	for {
		status, err := vm.status(ctx)
		if err != nil {
			return err
		}
		// QEMU keeps the state in which the VM was saved, which can be that of a reset.
		if vm.meaning(status).state == hypervisor.StatePaused {
			return nil
		}
		if status != "inmigrate" {
			return fmt.Errorf("the restored VM is %s, and should be paused", status)
		}
		// The event that all was read may come a moment before the state changes.
		if err := wait.For(ctx, chardevPoll); err != nil {
			return err
		}
	}
}

// settleRestore is for a VM whose server was killed after all of it had been
// restored, and before it had put that down.
func (vm *VM) settleRestore(status string) {
	switch vm.meaning(status).state {
	case hypervisor.StatePaused, hypervisor.StateRunning, hypervisor.StateShutdown:
	default:
		return
	}
	snapshot.Settle(vm.Log, vm.dir.Swap())
}
