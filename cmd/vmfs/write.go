package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"vmfs/client"
)

func newWrite() *cobra.Command {
	var appendTo bool
	cmd := &cobra.Command{
		Use:   "write [-a] PATH [WORDS…]",
		Short: "Write words, or standard input, to a file",
		Long: `Write to a file of the server. With WORDS they are written as echo prints them:
joined by blanks, with a newline, in one message. Else standard input is copied.

The file is opened as > does, or with -a as >> does. It matters for config, which
the first replaces and the second merges into.

Standard input is passed on as it comes, but by whole lines: a message holds one
or more lines, and a line is cut only where it is longer than a message (60 KiB)
or where the input ends without a newline. So each write is a whole command.

All words after PATH belong to the text; options stand before PATH. Quoting for
the server is rc's and has to get past the shell: "set args='a b'". When a write
fails, what the server says of it is printed.`,
		Example: `  vmfs write web/ctl start
  vmfs write web/memory 1G
  vmfs write web/config <web.conf
  vmfs write -a web/config vcpus=4
  vmfs write web/ctl "set args='console=ttyS0 quiet'"`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeWrite,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := connect(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			name, words := args[0], args[1:]
			flags := os.O_WRONLY | os.O_TRUNC
			if appendTo {
				flags = os.O_WRONLY | os.O_APPEND
			}
			if err := write(cmd.Context(), c, name, flags, words, cmd.InOrStdin()); err != nil {
				return fmt.Errorf("write %s: %w", name, err)
			}
			return nil
		},
	}
	cmd.Flags().SetInterspersed(false)
	cmd.Flags().BoolVarP(&appendTo, "append", "a", false, "open the file for appending, as >> does")
	addrFlag(cmd)
	return cmd
}

// write opens name and writes the words to it, or where there are none what in
// has.
func write(ctx context.Context, c *client.Client, name string, flags int, words []string, in io.Reader) error {
	f, err := c.Open(ctx, name, flags)
	if err != nil {
		return err
	}
	if len(words) > 0 {
		_, err = io.WriteString(f.With(ctx), strings.Join(words, " ")+"\n")
	} else {
		err = copyLines(f.With(ctx), in)
	}
	// The server may have kept the writes until now; what the clunk says counts
	// as what they say.
	if cerr := f.Clunk(ctx); err == nil {
		err = cerr
	}
	return err
}

// copyLines writes to w what in has, whole lines at a time, as soon as they are
// there. A line longer than ioSize is written in pieces.
func copyLines(w io.Writer, in io.Reader) error {
	buf := make([]byte, 0, ioSize)
	for {
		n, err := in.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		whole := bytes.LastIndexByte(buf, '\n') + 1
		if whole == 0 && len(buf) == cap(buf) || err != nil {
			whole = len(buf)
		}
		if whole > 0 {
			if _, werr := w.Write(buf[:whole]); werr != nil {
				return werr
			}
			buf = buf[:copy(buf, buf[whole:])]
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
