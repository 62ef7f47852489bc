package cloudhypervisor

import (
	"context"
	"time"

	"vmfs/backends/hypervisor"
)

// ResizeMemory is not there yet, as the capabilities say.
func (vm *VM) ResizeMemory(context.Context, int64) error {
	return vm.wrap("memory", hypervisor.ErrNotSupported)
}

// ResizeMemoryAndWait is not there yet.
func (vm *VM) ResizeMemoryAndWait(context.Context, int64, time.Duration) error {
	return vm.wrap("memory", hypervisor.ErrNotSupported)
}
