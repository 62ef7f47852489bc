package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"vmfs/client"
)

func newCat() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cat PATH…",
		Short: "Print files, as their content comes",
		Long: `Print files of the server, one after the other. What the server sends is printed
at once, so a file that blocks (events, wait, console) prints each thing when it
happens, until the file ends or the command is interrupted.`,
		Example: `  vmfs cat web/state
  vmfs cat web/console | grep -m1 login:
  vmfs cat web/events | while read -r line; do echo "web: $line"; done
  vmfs cat events`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completePath,
		RunE: func(cmd *cobra.Command, args []string) error {
			exitWithReader(cmd.OutOrStdout())
			return eachPath(cmd, args, func(ctx context.Context, c *client.Client, name string) error {
				return cat(ctx, c, cmd.OutOrStdout(), name)
			})
		},
	}
	addrFlag(cmd)
	return cmd
}

// cat copies the file name to w.
func cat(ctx context.Context, c *client.Client, w io.Writer, name string) error {
	f, err := c.Open(ctx, name, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	return copyOut(w, f.With(ctx))
}

// copyOut writes to w what r has, each piece at once, until r ends.
func copyOut(w io.Writer, r io.Reader) error {
	buf := make([]byte, ioSize)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if _, werr := w.Write(buf[:n]); werr != nil {
				return fmt.Errorf("%w: %w", errOutput, werr)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
