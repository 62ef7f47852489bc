package hostnet

import (
	"context"
	"fmt"
	"os"

	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
)

// Open makes the host's side of the VM's i-th network: what its VMM inherits, a tap
// or a stream socket, and the passt behind the latter, nil for a tap. Both end with
// the VMM. passt's words go to the file log.
func Open(ctx context.Context, c *hypervisor.VMConfig, i int, log string) (f *os.File, passt *process.Child, err error) {
	switch n := c.Networks[i]; {
	case n.TAPDevice != "":
		f, err = OpenTap(ctx, n.TAPDevice)
	case n.Bridge != "":
		f, err = BridgeTap(ctx, n.Bridge, TapName(c.Name, c.UUID, i))
	case n.Passt:
		f, passt, err = Passt(ctx, n.Forwards, log)
	default:
		err = fmt.Errorf("it is the VMM's own: %w", hypervisor.ErrInvalid)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("network %d: %w", i, err)
	}
	return f, passt, nil
}
