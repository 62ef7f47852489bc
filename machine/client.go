package machine

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"vmfs/backends/hypervisor"
)

// foreignError is a VMM that answers on a VM's socket and is not that VM's. It is
// left alone. It is a hypervisor.ErrBusy: the VM cannot be started beside it.
type foreignError struct {
	socket string
	id     hypervisor.Identity
}

func (e *foreignError) Error() string {
	pid := ""
	if e.id.PID != 0 {
		pid = " with pid " + strconv.Itoa(e.id.PID)
	}
	return fmt.Sprintf("on %s answers the VMM%s of another VM (name %q, uuid %q), which is left alone: end it, or move its socket away", e.socket, pid, e.id.Name, e.id.UUID)
}

func (e *foreignError) Unwrap() error { return hypervisor.ErrBusy }

// newClient makes a handle on the VMM at the socket. A client factory takes no
// context; one that is still at it when ctx ends is left behind, and its
// handle closed.
func (h *Host) newClient(ctx context.Context, t hypervisor.Type, socket string) (hypervisor.Hypervisor, error) {
	type result struct {
		hv  hypervisor.Hypervisor
		err error
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	got := make(chan result)
	if !h.spawn(func() {
		hv, err := hypervisor.NewClient(t, socket)
		select {
		case got <- result{hv, err}:
		case <-ctx.Done():
			if err == nil {
				hypervisor.CloseHandle(hv)
			}
		}
	}) {
		return nil, ErrClosed
	}
	select {
	case r := <-got:
		return r.hv, r.err
	case <-ctx.Done():
		return nil, fmt.Errorf("connect to %s: %w", socket, ctx.Err())
	}
}

// contact is a VMM that answered.
type contact struct {
	hv   hypervisor.Hypervisor
	id   hypervisor.Identity // zero where it cannot tell
	info hypervisor.VMInfo
}

// connect makes a handle on the VMM at the socket, makes sure that it is the one
// of the VM with this uuid, and asks how it is. With an empty uuid the name alone
// counts.
func (v *VM) connect(ctx context.Context, t hypervisor.Type, socket, uuid string) (contact, error) {
	ctx, cancel := context.WithTimeout(ctx, v.host.opts.Timeouts.Verb)
	defer cancel()
	hv, err := v.host.newClient(ctx, t, socket)
	if err != nil {
		return contact{}, err
	}
	c := contact{hv: hv}
	fail := func(err error) (contact, error) {
		hypervisor.CloseHandle(hv)
		return contact{}, err
	}
	if i, ok := hv.(hypervisor.Identifier); ok {
		if c.id, err = i.Identify(ctx); err != nil {
			return fail(err)
		}
		if c.id.Name != v.name || uuid != "" && c.id.UUID != uuid {
			return fail(&foreignError{socket, c.id})
		}
	}
	info, err := hv.GetVMInfo(ctx)
	if err != nil {
		return fail(err)
	}
	c.info = *info
	return c, nil
}

func notRunning(err error) bool { return errors.Is(err, hypervisor.ErrHypervisorNotRunning) }
