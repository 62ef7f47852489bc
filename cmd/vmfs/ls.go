package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/hugelgupf/p9/p9"
	"github.com/spf13/cobra"

	"vmfs/client"
)

func newLs() *cobra.Command {
	var long bool
	cmd := &cobra.Command{
		Use:   "ls [-l] [PATH…]",
		Short: "List directories",
		Long: `List the names in directories of the server, one a line. A PATH that is a file is
listed itself. Without PATH it is the root: the VMs and the server's own files.`,
		Example: `  vmfs ls
  vmfs ls -l web
  vmfs ls --addr 'tcp!10.0.0.7!564' web/snapshots`,
		ValidArgsFunction: completePath,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				args = []string{"/"}
			}
			blank := false
			return eachPath(cmd, args, func(ctx context.Context, c *client.Client, name string) error {
				defer func() { blank = true }()
				return list(ctx, c, cmd.OutOrStdout(), name, long, len(args) > 1, blank)
			})
		},
	}
	cmd.Flags().BoolVarP(&long, "long", "l", false, "mode, owner, group, length and time too")
	addrFlag(cmd)
	return cmd
}

// list prints what name is, or has. Where several are listed each directory
// has a heading.
func list(ctx context.Context, c *client.Client, w io.Writer, name string, long, heading, blank bool) error {
	info, err := c.Stat(ctx, name)
	if err != nil {
		return err
	}
	if !info.Attr.Mode.IsDir() {
		return printEntry(w, name, long, info.Attr)
	}
	ents, err := c.ReadDir(ctx, name)
	if err != nil {
		return err
	}
	if heading {
		if blank {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "%s:\n", name)
	}
	for _, e := range ents {
		var info client.Info
		if long {
			info, err = c.Stat(ctx, name+"/"+e.Name)
			if errors.Is(err, os.ErrNotExist) {
				continue // it went since the directory was read
			}
			if err != nil {
				return fmt.Errorf("%s: %w", e.Name, err)
			}
		}
		if err := printEntry(w, e.Name, long, info.Attr); err != nil {
			return err
		}
	}
	return nil
}

// printEntry prints one line of a listing.
func printEntry(w io.Writer, name string, long bool, a p9.Attr) error {
	var err error
	if long {
		_, err = fmt.Fprintf(w, "%s %5d %5d %8d %s %s\n", a.Mode.OSMode(), a.UID, a.GID, a.Size, mtime(a).Format("2006-01-02 15:04:05"), name)
	} else {
		_, err = fmt.Fprintln(w, name)
	}
	if err != nil {
		return errors.Join(errOutput, err)
	}
	return nil
}

var errOutput = errors.New("standard output")

func mtime(a p9.Attr) time.Time { return time.Unix(int64(a.MTimeSeconds), int64(a.MTimeNanoSeconds)) }
