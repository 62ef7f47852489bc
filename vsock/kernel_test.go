package vsock

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func fakeKernel(t *testing.T, dial func(ctx context.Context, cid, port uint32) (Conn, error)) {
	t.Helper()
	old := dialKernel
	dialKernel = dial
	t.Cleanup(func() { dialKernel = old })
}

func TestKernelDialErrors(t *testing.T) {
	for errno, want := range map[syscall.Errno]error{
		syscall.ECONNRESET:      ErrRefused,
		syscall.ECONNREFUSED:    ErrRefused,
		syscall.ETIMEDOUT:       context.DeadlineExceeded,
		syscall.ENODEV:          ErrUnavailable,
		syscall.EHOSTUNREACH:    ErrUnavailable,
		syscall.EADDRNOTAVAIL:   ErrUnavailable,
		syscall.EAFNOSUPPORT:    ErrUnavailable,
		syscall.EPERM:           syscall.EPERM,
		syscall.EPROTONOSUPPORT: ErrUnavailable,
	} {
		fakeKernel(t, func(_ context.Context, cid, port uint32) (Conn, error) {
			assert.Equal(t, []uint32{42, 1024}, []uint32{cid, port})
			return nil, &net.OpError{Op: "dial", Net: "vsock", Err: os.NewSyscallError("connect", errno)}
		})
		_, err := (&Kernel{CID: 42}).DialVsock(t.Context(), 1024)
		require.ErrorIs(t, err, want, errno.Error())
		assert.Contains(t, err.Error(), "port 1024 of CID 42")
		for _, other := range []error{ErrRefused, ErrUnavailable, context.DeadlineExceeded} {
			if other != want {
				assert.NotErrorIs(t, err, other, errno.Error())
			}
		}
	}
}

func TestKernelDialObeysLimits(t *testing.T) {
	fakeKernel(t, func(ctx context.Context, _, _ uint32) (Conn, error) {
		<-ctx.Done()
		return nil, &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}
	})
	_, err := (&Kernel{CID: 42, Timeout: time.Millisecond}).DialVsock(t.Context(), 1)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = (&Kernel{CID: 42}).DialVsock(ctx, 1)
	assert.ErrorIs(t, err, context.Canceled)

	fakeKernel(t, func(context.Context, uint32, uint32) (Conn, error) {
		t.Error("reached the kernel")
		return nil, io.ErrUnexpectedEOF
	})
	for _, cid := range []int64{-1, 0, 1<<32 - 1, 1 << 32, 1<<32 + 3} {
		_, err := (&Kernel{CID: cid}).DialVsock(t.Context(), 1)
		assert.ErrorContains(t, err, "bad CID")
		_, err = (&Kernel{CID: cid}).ListenVsock(t.Context(), 1)
		assert.ErrorContains(t, err, "bad CID")
	}
	_, err = (&Kernel{CID: 3}).DialVsock(t.Context(), -1)
	assert.ErrorIs(t, err, ErrPort)
	_, err = (&Kernel{CID: 3}).ListenVsock(t.Context(), 0)
	assert.ErrorIs(t, err, ErrPort)
}

// TestKernelListenForReal binds a port of the machine's own kernel, if it has
// vsock. Connections need a guest: the tests of vhostuser have one.
func TestKernelListenForReal(t *testing.T) {
	if fd, err := syscall.Socket(40 /* AF_VSOCK */, syscall.SOCK_STREAM, 0); err != nil {
		t.Skipf("this kernel has no vsock (%v): modprobe vsock", err)
	} else {
		require.NoError(t, syscall.Close(fd))
	}
	const port = 3_000_017
	a, err := (&Kernel{CID: 42}).ListenVsock(t.Context(), port)
	require.NoError(t, err)
	b, err := (&Kernel{CID: 43}).ListenVsock(t.Context(), port)
	require.NoError(t, err)
	_, err = (&Kernel{CID: 42}).ListenVsock(t.Context(), port)
	require.ErrorIs(t, err, syscall.EADDRINUSE)
	done := make(chan error, 1)
	go func() { _, err := a.Accept(); done <- err }()
	require.NoError(t, a.Close())
	select {
	case err := <-done:
		assert.ErrorIs(t, err, net.ErrClosed)
	case <-time.After(patience):
		t.Fatal("Close did not wake Accept")
	}
	require.NoError(t, b.Close())
	c, err := (&Kernel{CID: 42}).ListenVsock(t.Context(), port)
	require.NoError(t, err, "the port is free again")
	require.NoError(t, c.Close())
}

// cidConn gives a Unix connection the CID its client sends first.
type cidConn struct {
	net.Conn
	cid int64
}

func (c cidConn) RemoteAddr() net.Addr { return Addr{CID: c.cid} }

type cidListener struct{ net.Listener }

func (l cidListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	var cid [1]byte
	if _, err := io.ReadFull(c, cid[:]); err != nil {
		return nil, err
	}
	return cidConn{c, int64(cid[0])}, nil
}

func TestKernelListenersShareAPort(t *testing.T) {
	dir := shortDir(t)
	binds := 0
	hub := &portHub{
		bind: func(port uint32) (net.Listener, error) {
			binds++
			l, err := net.Listen("unix", filepath.Join(dir, fmt.Sprint(port)))
			return cidListener{l}, err
		},
		queue: 3,
		cidOf: func(a net.Addr) (int64, bool) { return a.(Addr).CID, true },
	}
	dial := func(cid byte) net.Conn {
		c, err := net.Dial("unix", filepath.Join(dir, "7"))
		require.NoError(t, err)
		_, err = c.Write([]byte{cid, '0' + cid})
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
		return c
	}
	refused := func(c net.Conn) {
		t.Helper()
		_, err := c.Read(make([]byte, 1))
		require.Error(t, err)
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	}
	three, err := hub.listen(3, 7)
	require.NoError(t, err)
	four, err := hub.listen(4, 7)
	require.NoError(t, err)
	assert.Equal(t, 1, binds)

	refused(dial(5))
	for range 3 {
		dial(4) // nobody accepts these
	}
	refused(dial(4))
	dial(3)
	c, err := three.Accept()
	require.NoError(t, err)
	var b [1]byte
	_, err = io.ReadFull(c, b[:])
	require.NoError(t, err)
	assert.Equal(t, byte('3'), b[0])
	require.NoError(t, c.Close())

	waiting := dial(3)
	var wg sync.WaitGroup
	require.NoError(t, three.Close())
	refused(waiting)
	wg.Go(func() { _, err := four.Accept(); assert.NoError(t, err) })
	wg.Wait()
	require.NoError(t, four.Close())
	assert.Empty(t, hub.ports)

	again, err := hub.listen(3, 7)
	require.NoError(t, err)
	assert.Equal(t, 2, binds)
	wg.Go(func() { _, err := again.Accept(); assert.Error(t, err) })
	hub.mu.Lock()
	l := hub.ports[7].l
	hub.mu.Unlock()
	require.NoError(t, l.Close()) // the kernel's listener fails
	wg.Wait()
	_, err = again.Accept()
	assert.ErrorIs(t, err, net.ErrClosed)
	require.NoError(t, again.Close())
}
