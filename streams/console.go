package streams

import (
	"context"
	"io"

	"vmfs/machine"
)

// console is a VM's serial console, both ways.
type console struct {
	vm *machine.VM
	r  interface {
		io.Closer
		Read(ctx context.Context, p []byte) (int, error)
	}
}

// Console opens a VM's serial console. Reading begins with the scroll-back.
func Console(vm *machine.VM) Stream { return &console{vm, vm.OpenConsole()} }

func (c *console) Read(ctx context.Context, p []byte) (int, error) { return c.r.Read(ctx, p) }

func (c *console) Write(ctx context.Context, p []byte) (int, error) {
	n, err := c.vm.WriteConsole(ctx, p)
	if err != nil {
		c.vm.RecordError("console", err)
	}
	return n, err
}

func (c *console) Close() { _ = c.r.Close() } // a reader has nothing to lose
