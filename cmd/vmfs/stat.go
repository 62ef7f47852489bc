package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"vmfs/client"
)

func newStat() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "stat PATH…",
		Short: "Print the attributes of files",
		Long: `Print the attributes of files of the server as key=value lines. The size of what
the server generates is 0: read it to know.`,
		Example: `  vmfs stat web
  vmfs stat web/ctl web/state`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completePath,
		RunE: func(cmd *cobra.Command, args []string) error {
			return eachPath(cmd, args, func(ctx context.Context, c *client.Client, name string) error {
				return stat(ctx, c, cmd.OutOrStdout(), name)
			})
		},
	}
	addrFlag(cmd)
	return cmd
}

// stat prints the attributes of name.
func stat(ctx context.Context, c *client.Client, w io.Writer, name string) error {
	info, err := c.Stat(ctx, name)
	if err != nil {
		return err
	}
	qid, a := info.QID, info.Attr
	_, err = fmt.Fprintf(w, "path=%s\nqid=%#x version=%d type=%#x\nmode=%s\nuid=%d\ngid=%d\nsize=%d\nmtime=%s\n",
		name, qid.Path, qid.Version, uint8(qid.Type), a.Mode.OSMode(), a.UID, a.GID, a.Size, mtime(a).Format(time.RFC3339Nano))
	return err
}
