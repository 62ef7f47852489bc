package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/hugelgupf/p9/p9"

	"vmfs/ninep/dial"
)

// vms is how many VMs vmfs has, and running how many of them run.
const (
	vms     = 1000
	running = 100
)

func vmName(i int) string { return fmt.Sprintf("vm-%04d", i) }

// comment is a control message of 16 bytes that does nothing: writing it costs
// what writing a command does, without the command.
const comment = "# fifteen bytes\n"

// makeVMs makes simulated VMs and starts some of them.
func makeVMs(ctx context.Context, addr string) error {
	conn, err := dial.Dial(ctx, addr)
	if err != nil {
		return err
	}
	c, err := p9.NewClient(conn)
	if err != nil {
		conn.Close()
		return err
	}
	defer c.Close()
	root, err := c.Attach("")
	if err != nil {
		return err
	}
	defer root.Close()
	write := func(text string, path ...string) error {
		_, f, err := root.Walk(path)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, _, err := f.Open(p9.WriteOnly); err != nil {
			return err
		}
		_, err = f.WriteAt([]byte(text), 0)
		return err
	}
	var create strings.Builder
	for i := range vms {
		fmt.Fprintf(&create, "create %s\n", vmName(i))
	}
	if err := write(create.String(), "ctl"); err != nil {
		return err
	}
	for i := range vms {
		text := "set hypervisor=sim\n"
		if i%(vms/running) == 0 {
			text += "start\n"
		}
		if err := write(text, vmName(i), "ctl"); err != nil {
			return fmt.Errorf("%s: %w", vmName(i), err)
		}
	}
	return ctx.Err()
}
