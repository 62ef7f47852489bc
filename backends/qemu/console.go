package qemu

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"

	"vmfs/backends/hypervisor"
	"vmfs/internal/unixsock"
)

// OpenConsole connects to the serial console. It returns when QEMU has taken the
// connection, so that nothing that is printed afterwards is missed. A second
// connection is ErrBusy.
func (vm *VM) OpenConsole(ctx context.Context) (io.ReadWriteCloser, error) {
	c, err := vm.openConsole(ctx)
	return c, vm.wrap("console", err)
}

func (vm *VM) openConsole(ctx context.Context) (_ io.ReadWriteCloser, err error) {
	if err := vm.conn.Err(); err != nil {
		return nil, err
	}
	vm.mu.Lock()
	taken := vm.console
	vm.console = true
	vm.mu.Unlock()
	if taken {
		return nil, fmt.Errorf("there is a connection already: %w", hypervisor.ErrBusy)
	}
	give := sync.OnceFunc(func() {
		vm.mu.Lock()
		defer vm.mu.Unlock()
		vm.console = false
	})
	defer func() {
		if err != nil {
			give()
		}
	}()
	// The one before may have been closed a moment ago, and QEMU not know it yet.
	if err := vm.awaitChardev(ctx, idConsole, false); err != nil {
		return nil, err
	}
	conn, err := unixsock.Dial(ctx, vm.dir.console())
	if err != nil {
		return nil, dialError(err)
	}
	if err := vm.awaitChardev(ctx, idConsole, true); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return &consoleConn{UnixConn: conn, give: give}, nil
}

// A consoleConn is the one connection to a console.
//
// QEMU writes to it a byte at a time, so that it is full after some hundred bytes
// that nobody has read. The guest's port then stands still, and QEMU 7.2 logs the
// byte that did not fit at each try. Without a connection it does neither.
type consoleConn struct {
	*net.UnixConn
	give func()
}

// Drained reports whether QEMU has taken all that was written.
func (c *consoleConn) Drained() bool {
	n, err := unixsock.Unread(c.UnixConn)
	return err == nil && n == 0
}

// Close ends the connection; a Read that waits returns.
func (c *consoleConn) Close() error {
	err := c.UnixConn.Close()
	c.give()
	return err
}
