package cloudhypervisor

import (
	"context"
	"errors"

	"vmfs/backends/cloudhypervisor/api"
	"vmfs/backends/hypervisor"
)

// Identify asks Cloud Hypervisor for the UUID of its VM. It knows no names: the name is that of
// the record, if that is of this VM. The process is the one that the kernel says serves the
// control socket.
func (vm *VM) Identify(ctx context.Context) (hypervisor.Identity, error) {
	id := hypervisor.Identity{PID: vm.proc.PID}
	if rec := vm.record(); rec != nil {
		id.Name, id.UUID = rec.Config.Name, rec.Config.UUID
	}
	info, err := vm.client.Info(ctx)
	if errors.Is(err, api.ErrNoVM) {
		return id, nil // it was started for the VM of the record, and has not been told of it
	}
	if err != nil {
		return hypervisor.Identity{}, vm.wrap("identify", err)
	}
	uuid := ""
	if info.Config.Platform != nil {
		uuid = info.Config.Platform.UUID
	}
	if uuid != id.UUID {
		id.Name, id.UUID = "", uuid
	}
	return id, nil
}
