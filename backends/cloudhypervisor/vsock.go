package cloudhypervisor

import (
	"errors"

	"vmfs/backends/hypervisor"
	"vmfs/vsock"
)

var _ hypervisor.VsockListener = (*vsock.Hybrid)(nil)

// VsockDialer returns what leads into the guest: the socket that Cloud Hypervisor was told.
func (vm *VM) VsockDialer() (hypervisor.VsockDialer, error) {
	rec := vm.record()
	if rec == nil {
		return nil, vm.wrap("vsock", errors.New("what the VM was started with is not known"))
	}
	if rec.Config.VsockCID == 0 {
		return nil, vm.wrap("vsock", hypervisor.ErrNotSupported)
	}
	return &vsock.Hybrid{Socket: rec.Config.VsockSocket}, nil
}
