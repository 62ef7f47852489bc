package main

import (
	"context"
	"errors"
	"strconv"

	"github.com/hugelgupf/p9/linux"
	"github.com/spf13/cobra"

	"vmfs/client"
	"vmfs/machine"
)

func newMkdir() *cobra.Command {
	mode := "700"
	cmd := &cobra.Command{
		Use:   "mkdir [-m MODE] PATH…",
		Short: "Make directories: VMs and snapshots",
		Long: `Make directories on the server. In the root that makes a VM, in the state created
and with the default config. The VM belongs to who makes it. MODE says in octal what
its owner, its group and others may do with it; read and write are what counts.

In a VM's snapshots it saves the VM, as the verb snapshot does, and returns when that
is done.`,
		Example: `  vmfs mkdir web
  vmfs mkdir -m 750 db
  vmfs mkdir web1 web2 web3
  vmfs mkdir web/snapshots/before-upgrade`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			perm, err := strconv.ParseUint(mode, 8, 32)
			if err != nil || perm > 0o777 {
				return usagef("mkdir: mode %q is not within 0 to 777 in octal", mode)
			}
			return eachPath(cmd, args, func(ctx context.Context, c *client.Client, name string) error {
				err := c.Mkdir(ctx, name, uint32(perm))
				if names := client.Split(name); errors.Is(err, linux.EINVAL) && len(names) == 1 {
					if why := machine.CheckName(names[0]); why != nil {
						return why
					}
				}
				return err
			})
		},
	}
	cmd.Flags().StringVarP(&mode, "mode", "m", mode, "permissions, in octal")
	addrFlag(cmd)
	return cmd
}

func newRmdir() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rmdir PATH…",
		Short: "Remove directories: VMs and snapshots",
		Long: `Remove directories of the server. In the root that removes a VM with all that the
server keeps of it, which is refused while the VM runs; in a VM's snapshots it
deletes a snapshot.`,
		Example: `  vmfs rmdir web
  vmfs rmdir web/snapshots/before-upgrade`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeRmdir,
		RunE: func(cmd *cobra.Command, args []string) error {
			return eachPath(cmd, args, func(ctx context.Context, c *client.Client, name string) error { return c.Rmdir(ctx, name) })
		},
	}
	addrFlag(cmd)
	return cmd
}
