package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"vmfs/backends/hypervisor"
)

// vmStates are the states that can be waited for.
var vmStates = []string{
	string(hypervisor.StateCreated), string(hypervisor.StateRunning),
	string(hypervisor.StatePaused), string(hypervisor.StateShutdown),
}

func newWait() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "wait VM [STATE…]",
		Short: "Wait until a VM is in a state",
		Long: `Wait until the state of a VM is one of those given (created, running, paused,
shutdown), and print it. Without STATE wait until it differs from what it is now.
VM may be given as any path in its directory.

The exit status is 0 when the state was reached, 1 when the timeout came first or
the VM is gone.`,
		Example: `  vmfs wait web running --timeout 10s
  vmfs wait web paused shutdown && vmfs cat web/info
  vmfs write web/ctl poweroff && vmfs wait web shutdown --timeout 1m || vmfs write web/ctl stop`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeWait,
		RunE: func(cmd *cobra.Command, args []string) error {
			vm, states := vmOf(args[0]), args[1:]
			if vm == "" {
				return usagef("wait %s: that is not a VM", args[0])
			}
			for _, st := range states {
				if !slices.Contains(vmStates, st) {
					return usagef("wait %s: no state %q: it is one of %s", vm, st, strings.Join(vmStates, ", "))
				}
			}
			if timeout < 0 {
				return usagef("wait %s: a timeout of %v is in the past", vm, timeout)
			}
			ctx := cmd.Context()
			if timeout > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, timeout)
				defer cancel()
			}
			c, err := connect(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			st, err := c.Wait(ctx, vm, states...)
			if err != nil {
				return fmt.Errorf("wait %s: %w", vm, err)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), st)
			return err
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "give up after this `time` (10s, 2m); 0 is never")
	cmd.RegisterFlagCompletionFunc("timeout", cobra.NoFileCompletions)
	addrFlag(cmd)
	return cmd
}
