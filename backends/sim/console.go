package sim

import (
	"io"
	"os"
	"sync"
)

const (
	// typedRoom is how much input waits for a guest that does not read; more
	// input waits in Write.
	typedRoom = 4 << 10
	// printedRoom is how much output waits for whoever is connected; beyond it
	// the oldest is dropped, as the serial log has it all.
	printedRoom = 256 << 10
)

// console is one connection to a VM's serial console.
type console struct {
	vm   *VM
	cond sync.Cond // of vm.mu

	out    []byte // guarded by vm.mu
	closed bool   // guarded by vm.mu
}

var _ io.ReadWriteCloser = (*console)(nil)

func newConsole(vm *VM) *console {
	c := &console{vm: vm}
	c.cond.L = &vm.mu
	return c
}

// put adds output. vm.mu is held.
func (c *console) put(text string) {
	c.out = append(c.out, text...)
	if drop := len(c.out) - printedRoom; drop > 0 {
		c.out = c.out[drop:]
	}
	c.cond.Broadcast()
}

// Read returns what the guest printed; io.EOF when the VMM has ended.
func (c *console) Read(p []byte) (int, error) {
	c.vm.mu.Lock()
	defer c.vm.mu.Unlock()
	for {
		switch {
		case c.closed:
			return 0, os.ErrClosed
		case len(p) == 0:
			return 0, nil
		case len(c.out) > 0:
			n := copy(p, c.out)
			if c.out = c.out[n:]; len(c.out) == 0 {
				c.out = nil
			}
			return n, nil
		case c.vm.gone:
			return 0, io.EOF
		}
		c.cond.Wait()
	}
}

// Write types p. It waits while the guest does not read and much is typed already.
func (c *console) Write(p []byte) (int, error) {
	c.vm.mu.Lock()
	defer c.vm.mu.Unlock()
	written := 0
	for written < len(p) {
		switch room := typedRoom - len(c.vm.typed); {
		case c.closed:
			return written, os.ErrClosed
		case c.vm.gone:
			return written, io.ErrClosedPipe
		case room > 0:
			n := min(room, len(p)-written)
			c.vm.typed = append(c.vm.typed, p[written:written+n]...)
			written += n
			c.vm.readConsole()
		default:
			c.cond.Wait()
		}
	}
	return written, nil
}

// Close gives up the connection; Read and Write return.
func (c *console) Close() error {
	c.vm.mu.Lock()
	defer c.vm.mu.Unlock()
	if c.closed {
		return os.ErrClosed
	}
	c.closed = true
	if c.vm.console == c {
		c.vm.console = nil
	}
	c.cond.Broadcast()
	return nil
}
