package main

import (
	"context"
	"fmt"
	"strings"

	"vmfs/client"
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
	c, err := client.Dial(ctx, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	var create strings.Builder
	for i := range vms {
		fmt.Fprintf(&create, "create %s\n", vmName(i))
	}
	if err := c.WriteFile(ctx, "ctl", []byte(create.String())); err != nil {
		return err
	}
	for i := range vms {
		text := "set hypervisor=sim\n"
		if i%(vms/running) == 0 {
			text += "start\n"
		}
		if err := c.WriteFile(ctx, vmName(i)+"/ctl", []byte(text)); err != nil {
			return fmt.Errorf("%s: %w", vmName(i), err)
		}
	}
	return nil
}
