package machine

import (
	"context"
	"fmt"
	"net"

	"vmfs/backends/hypervisor"
)

// DialVsock connects to a port of the guest.
func (v *VM) DialVsock(ctx context.Context, port uint32) (net.Conn, error) {
	conn, err := v.dialVsock(ctx, port)
	if err != nil {
		return nil, v.wrap("vsock", fmt.Errorf("port %d: %w", port, err))
	}
	return conn, nil
}

func (v *VM) dialVsock(ctx context.Context, port uint32) (net.Conn, error) {
	v.mu.Lock()
	s, cfg := v.session, v.cfg.VMConfig()
	v.mu.Unlock()
	if s == nil {
		return nil, hypervisor.ErrHypervisorNotRunning
	}
	if cfg.VsockCID == 0 && cfg.VsockSocket == "" {
		return nil, fmt.Errorf("the VM has no vsock device, set vsock.cid: %w", hypervisor.ErrNotSupported)
	}
	d, err := hypervisor.NewVsockDialer(s.typ, cfg.VsockSocket, cfg.VsockCID)
	if err != nil {
		return nil, err
	}
	return d.DialVsock(ctx, int(port))
}
