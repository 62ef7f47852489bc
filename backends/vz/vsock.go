package vz

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"vmfs/backends/hypervisor"
	"vmfs/internal/unixsock"
	"vmfs/internal/wait"
	"vmfs/vsock"
)

// A dialer leads into the guest by the shim's hybrid vsock.
type dialer struct{ vsock.Hybrid }

var (
	_ hypervisor.VsockDialer   = (*dialer)(nil)
	_ hypervisor.VsockListener = (*dialer)(nil)
)

func newDialer(socket string) *dialer { return &dialer{vsock.Hybrid{Socket: socket}} }

// VsockDialer returns what leads into the guest. The framework picks its context ID and
// tells it nobody: the configuration's says only that there is a vsock.
func (vm *VM) VsockDialer() (hypervisor.VsockDialer, error) {
	rec := vm.record()
	if rec == nil {
		return nil, vm.wrap("vsock", errors.New("what the VM was started with is not known"))
	}
	if rec.Config.VsockCID == 0 {
		return nil, vm.wrap("vsock", hypervisor.ErrNotSupported)
	}
	return newDialer(rec.Config.VsockSocket), nil
}

// ListenVsock makes the socket for a port, and has the shim know of it: the framework
// refuses the guest a port that it was not told of. Where there is no shim yet, the one
// that comes finds the socket.
func (d *dialer) ListenVsock(ctx context.Context, port int) (net.Listener, error) {
	l, err := d.Hybrid.ListenVsock(ctx, port)
	if err != nil {
		return nil, err
	}
	if err := d.announce(ctx, port); err != nil {
		_ = l.Close() // it is of no use
		return nil, fmt.Errorf("vz: listen for the guest of %s on port %d: %w", d.Socket, port, err)
	}
	return l, nil
}

func (d *dialer) announce(ctx context.Context, port int) error {
	c, err := unixsock.Dial(ctx, d.Socket)
	if unixsock.Unserved(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer c.Close()
	defer wait.Interrupt(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	line := ""
	if _, err = fmt.Fprintf(c, "LISTEN %d\n", port); err == nil {
		line, err = bufio.NewReaderSize(c, 32).ReadString('\n')
	}
	switch {
	case err == nil && line == fmt.Sprintf("OK %d\n", port):
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return errors.New("the shim cannot listen there; its log says why")
}
