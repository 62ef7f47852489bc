package cloudhypervisor

import (
	"vmfs/backends/hypervisor"
	"vmfs/vsock"
)

var _ hypervisor.VsockListener = (*vsock.Hybrid)(nil)

// VsockDialer returns what leads into the guest: the socket that Cloud Hypervisor was told.
func (vm *VM) VsockDialer() (hypervisor.VsockDialer, error) {
	c, err := vm.Vsock()
	if err != nil {
		return nil, vm.wrap("vsock", err)
	}
	return &vsock.Hybrid{Socket: c.VsockSocket}, nil
}
