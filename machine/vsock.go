package machine

import (
	"context"
	"fmt"
	"net"
	"path/filepath"

	"vmfs/backends/hypervisor"
	"vmfs/machine/events"
)

// vsockSocketName is the host's end of a guest's vsock, in the VM's run-time
// directory, unless the configuration names another place.
const vsockSocketName = "vsock.sock"

// DialVsock connects to a port of the guest.
func (v *VM) DialVsock(ctx context.Context, port uint32) (net.Conn, error) {
	d, err := v.vsockDialer(ctx)
	if err == nil {
		var conn net.Conn
		if conn, err = d.DialVsock(ctx, int(port)); err == nil {
			return conn, nil
		}
	}
	return nil, v.wrap("vsock", fmt.Errorf("port %d: %w", port, err))
}

// ListenVsock waits for the guest's connections to a port of the host. There is
// one listener to a port at a time. It does not end with the VMM: the caller
// closes it.
func (v *VM) ListenVsock(ctx context.Context, port uint32) (net.Listener, error) {
	d, err := v.vsockDialer(ctx)
	if err == nil {
		l, ok := d.(hypervisor.VsockListener)
		if !ok {
			err = fmt.Errorf("guests of this hypervisor cannot connect to the host: %w", hypervisor.ErrNotSupported)
		} else {
			var ln net.Listener
			if ln, err = l.ListenVsock(ctx, int(port)); err == nil {
				return ln, nil
			}
		}
	}
	return nil, v.wrap("vsock", fmt.Errorf("listen on port %d: %w", port, err))
}

// vsockDialer returns what leads into the guest of a VM that has a VMM. The handle on
// that knows best.
func (v *VM) vsockDialer(ctx context.Context) (hypervisor.VsockDialer, error) {
	v.mu.Lock()
	s, cfg := v.session, v.cfg.VMConfig()
	cfg.VsockCID = v.cidIn(v.cfg)
	v.mu.Unlock()
	if s == nil {
		return nil, hypervisor.ErrHypervisorNotRunning
	}
	if cfg.VsockCID == 0 && cfg.VsockSocket == "" {
		return nil, fmt.Errorf("the VM has no vsock device: stop it, write vsock.cid=3 to its config, and start it: %w", hypervisor.ErrNotSupported)
	}
	hv, err := s.handle(ctx)
	if err != nil {
		return nil, err
	}
	if source, ok := hv.(hypervisor.VsockSource); ok {
		return source.VsockDialer()
	}
	return hypervisor.NewVsockDialer(s.typ, v.vsockSocket(cfg), cfg.VsockCID)
}

// vsockSocket returns the host's end of the guest's vsock.
func (v *VM) vsockSocket(c hypervisor.VMConfig) string {
	if c.VsockSocket == "" && c.VsockCID != 0 {
		return filepath.Join(v.dir, runDir, vsockSocketName)
	}
	return c.VsockSocket
}

// RecordVsock tells the VM's events of something that happened to its vsock
// streams.
func (v *VM) RecordVsock(detail ...hypervisor.Detail) {
	v.emit(events.Event{Kind: events.KindVsock, Detail: detail})
}
