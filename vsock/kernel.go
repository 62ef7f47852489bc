package vsock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"
	"time"

	mdvsock "github.com/mdlayher/vsock"
)

// Kernel reaches one guest by its context id over the kernel's AF_VSOCK
// sockets. It holds no state: copies are equal.
type Kernel struct {
	// CID is the guest's context id. In a guest, 2 is the host.
	CID int64
	// Timeout bounds a dial; zero means DefaultTimeout. The kernel's own
	// limit, commonly 2 s, bounds it too.
	Timeout time.Duration
}

// dialKernel stands between us and the kernel so that tests reach every errno.
var dialKernel = func(ctx context.Context, cid, port uint32) (Conn, error) {
	c, err := mdvsock.DialContext(ctx, cid, port, nil)
	if err != nil {
		return nil, err
	}
	return c, nil
}

var _ Conn = (*mdvsock.Conn)(nil)

// Key names the guest for pooling: equal keys reach the same guest.
func (k *Kernel) Key() string { return "cid:" + strconv.FormatInt(k.CID, 10) }

// DialVsock connects to the guest's port. The connection has CloseWrite and
// CloseRead (see Conn).
func (k *Kernel) DialVsock(ctx context.Context, port int) (net.Conn, error) {
	fail := func(err error) (net.Conn, error) {
		return nil, fmt.Errorf("vsock: dial port %d of CID %d: %w", port, k.CID, err)
	}
	if err := CheckPort(port); err != nil {
		return fail(err)
	}
	if err := k.check(); err != nil {
		return fail(err)
	}
	ctx, cancel := withTimeout(ctx, k.Timeout)
	defer cancel()
	c, err := dialKernel(ctx, uint32(k.CID), uint32(port))
	if err == nil {
		return c, nil
	}
	if ctx.Err() != nil {
		return fail(context.Cause(ctx))
	}
	return fail(kernelError(err))
}

func (k *Kernel) check() error {
	if k.CID < 1 || k.CID >= 1<<32-1 {
		return fmt.Errorf("bad CID %d: want 1..%d", k.CID, uint32(1<<32-2))
	}
	return nil
}

// kernelError sorts the errnos of connect(2). A port without a listener is
// ECONNRESET on virtio, because a reset is what the guest answers.
func kernelError(err error) error {
	var no syscall.Errno
	if !errors.As(err, &no) {
		return err
	}
	switch no {
	case syscall.ECONNRESET, syscall.ECONNREFUSED:
		return fmt.Errorf("%w: the guest has no listener on this port", ErrRefused)
	case syscall.ETIMEDOUT:
		return fmt.Errorf("the guest did not answer: %w", context.DeadlineExceeded)
	case syscall.ENODEV, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EADDRNOTAVAIL:
		return fmt.Errorf("%w: no running guest has this CID (%v)", ErrUnavailable, no)
	case syscall.EAFNOSUPPORT, syscall.EPROTONOSUPPORT, syscall.ESOCKTNOSUPPORT:
		return fmt.Errorf("%w: this kernel has no vsock: load vhost_vsock (%v)", ErrUnavailable, no)
	}
	return err
}
