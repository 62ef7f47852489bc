package qemu

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"

	"vmfs/backends/companion"
	"vmfs/backends/hypervisor"
	"vmfs/backends/serial"
	"vmfs/internal/unixsock"
	"vmfs/internal/wait"
)

// console is where the process beside QEMU serves the console; where there is none QEMU does.
func (d runDir) console() string { return serial.ConsolePath(d.Dir) }

// keepSerial sees to it that QEMU has that process, for as long as the handle is there.
// A nil p is to be found. It runs beside the handle's callers.
func (vm *VM) keepSerial(p *companion.Companion) {
	ctx, cancel := vm.connected()
	defer cancel()
	serial.Keep(ctx, serial.In(vm.dir.Dir, &vm.record().Config.VMConfig), p, vm.qemuGone, vm.Log)
}

// adoptSerial keeps the process of a VM that another server started.
func (vm *VM) adoptSerial() {
	if vm.aside() && vm.record() != nil {
		vm.Spawn(func() { vm.keepSerial(nil) })
	}
}

// aside tells whether a process beside QEMU holds the console.
func (vm *VM) aside() bool {
	rec := vm.record()
	return serial.Supported && (rec == nil || rec.Serial)
}

// awaitSerial waits until the process has the serial port: what the guest prints while
// nobody is connected QEMU drops.
func (vm *VM) awaitSerial(ctx context.Context) error { return vm.awaitChardev(ctx, idConsole, true) }

// OpenConsole connects to the serial console. It returns when the connection has been
// taken, so that nothing that is printed afterwards is missed. A second connection is
// ErrBusy.
func (vm *VM) OpenConsole(ctx context.Context) (io.ReadWriteCloser, error) {
	open := vm.openConsole
	if vm.aside() {
		open = vm.openAside
	}
	c, err := open(ctx)
	return c, vm.wrap("console", err)
}

// openAside connects to the process beside QEMU.
func (vm *VM) openAside(ctx context.Context) (io.ReadWriteCloser, error) {
	if err := vm.conn.Err(); err != nil {
		return nil, err
	}
	alive, cancel := wait.While(ctx, vm.conn.Done())
	defer cancel()
	c, err := serial.Open(alive, vm.dir.console())
	if err == nil {
		return c, nil
	}
	if gone := vm.conn.Err(); gone != nil && ctx.Err() == nil {
		err = gone
	}
	return nil, err
}

// openConsole connects to QEMU itself, as it was with earlier versions, of which a VM may
// run still, and is where there is no such process.
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
