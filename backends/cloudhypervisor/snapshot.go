package cloudhypervisor

import (
	"context"
	"fmt"

	"vmfs/backends/hypervisor"
)

// Snapshot is not there yet, as the capabilities say.
func (vm *VM) Snapshot(context.Context, string) error {
	return vm.wrap("snapshot", hypervisor.ErrNotSupported)
}

// RestoreVM is not there yet.
func (s *Starter) RestoreVM(_ context.Context, _ *hypervisor.Paths, _, socketPath, _ string) (int, hypervisor.Hypervisor, error) {
	return 0, nil, fmt.Errorf("cloud-hypervisor: restore at %s: %w", socketPath, hypervisor.ErrNotSupported)
}
