package main

import (
	"errors"
	"fmt"
	"path"
	"strconv"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"
	"github.com/spf13/cobra"

	"vmfs/machine"
)

func newMkdir() *cobra.Command {
	mode := "700"
	cmd := &cobra.Command{
		Use:   "mkdir [-m MODE] PATH…",
		Short: "Make directories: VMs",
		Long: `Make directories on the server. In the root that makes a VM, in the state created
and with the default config. The VM belongs to who makes it. MODE says in octal what
its owner, its group and others may do with it; read and write are what counts.`,
		Example: `  vmfs mkdir web
  vmfs mkdir -m 750 db
  vmfs mkdir web1 web2 web3`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			perm, err := strconv.ParseUint(mode, 8, 32)
			if err != nil || perm > 0o777 {
				return usagef("mkdir: mode %q is not within 0 to 777 in octal", mode)
			}
			return eachEntry(cmd, "mkdir", args, func(s *session, dir p9.File, base, _ string) error {
				_, err := dir.Mkdir(base, p9.FileMode(perm), p9.NoUID, p9.NoGID)
				if why := machine.CheckName(base); errors.Is(err, linux.EINVAL) && why != nil {
					return &explained{text: why.Error(), errno: linux.EINVAL}
				}
				return lost(err)
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
			return eachEntry(cmd, "rmdir", args, func(s *session, dir p9.File, base, name string) error {
				if err := dir.UnlinkAt(base, atRemoveDir); err != nil {
					return s.explain(name, "", err)
				}
				return nil
			})
		},
	}
	addrFlag(cmd)
	return cmd
}

// eachEntry calls do with the directory and the last name of each path, and
// reports failures as those of op.
func eachEntry(cmd *cobra.Command, op string, paths []string, do func(s *session, dir p9.File, base, name string) error) error {
	s, err := connect(cmd)
	if err != nil {
		return err
	}
	defer s.close()
	one := func(name string) error {
		if len(splitPath(name)) == 0 {
			return fmt.Errorf("that is the root")
		}
		clean := path.Clean("/" + name)
		dir, err := s.walk(path.Dir(clean))
		if err != nil {
			return lost(err)
		}
		defer dir.Close()
		return do(s, dir, path.Base(clean), name)
	}
	var result error
	for _, name := range paths {
		if err := one(name); err != nil {
			report(fmt.Errorf("%s %s: %w", op, name, err))
			result = errReported
		}
	}
	return result
}
