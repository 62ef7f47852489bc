package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/hugelgupf/p9/linux"
	"github.com/spf13/cobra"

	"vmfs/client"
)

func newRdwr() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rdwr PATH",
		Short: "Connect standard input and output to a file",
		Long: `Copy standard input to the file and the file to standard output, both at once.
When the input ends the writing side is closed and the output goes on until the
file ends, or until the command is interrupted. When a stream (the console, what
is in vsock) ends, so does the command; other files are read and written to
their ends.

The file is opened twice, once to write and once to read, where all who open it
share it (console, vsock/K/data), and clone once. A port in vsock/ or
vsock/listen/, of which each open is a stream of its own, is reached through
vsock/clone, so that the end of the input is passed on to the guest. Of clone,
the new VM's name is read and printed before anything is written: the input is
for its ctl.`,
		Example: `  vmfs rdwr web/console
  echo date | vmfs rdwr web/vsock/1024
  echo 'set hypervisor=sim' | vmfs rdwr clone`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeOnePath,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := connect(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			exitWithReader(cmd.OutOrStdout())
			stream, ok, err := c.Stream(cmd.Context(), args[0])
			switch {
			case err != nil:
			case ok:
				err = relayStream(stream, cmd.InOrStdin(), cmd.OutOrStdout())
			default:
				err = rdwr(cmd.Context(), c, args[0], cmd.InOrStdin(), cmd.OutOrStdout())
			}
			if err != nil {
				return fmt.Errorf("rdwr %s: %w", args[0], err)
			}
			return nil
		},
	}
	addrFlag(cmd)
	return cmd
}

// sharing is what those who open a file have in common.
type sharing int

const (
	text   sharing = iota // nothing: each reads a content and writes commands
	shared                // one stream for all
	cloned                // a ctl for each open, of what the opening made
)

// sharingOf tells what kind of file name is, by its place in the tree.
func sharingOf(name string) sharing {
	names := client.Split(name)
	n := len(names)
	switch {
	case n > 0 && names[n-1] == "clone":
		return cloned
	case n == 2 && names[1] == "console", n == 4 && names[1] == "vsock" && names[3] == "data":
		return shared
	}
	return text
}

// rdwr copies in to the file name and the file to out, until the file ends and,
// if it is no stream, in as well. The goroutine that copies in may be left in its
// read of in: the process ends with the command.
func rdwr(ctx context.Context, c *client.Client, name string, in io.Reader, out io.Writer) error {
	kind := sharingOf(name)
	rd, wr, err := openBoth(ctx, c, name, kind)
	if err != nil {
		return err
	}
	if kind == cloned {
		// Who reads it while a command fails would get the words that tell why.
		if err := copyOut(out, rd.With(ctx)); err != nil {
			return err
		}
		return copyChunks(wr.With(ctx), in)
	}
	written := make(chan error, 1)
	go func() {
		err := copyChunks(wr.With(ctx), in)
		if cerr := wr.Clunk(ctx); err == nil {
			err = cerr
		}
		written <- err
	}()
	read := make(chan error, 1)
	go func() { read <- copyOut(out, rd.With(ctx)) }()
	for left := 2; left > 0; left-- {
		select {
		case err := <-read:
			if err != nil || kind == shared {
				return err
			}
		case err := <-written:
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// openBoth opens name to read and to write: once or twice, as its kind wants.
func openBoth(ctx context.Context, c *client.Client, name string, kind sharing) (rd, wr *client.File, err error) {
	if kind == cloned {
		rd, err = c.Open(ctx, name, os.O_RDWR)
		return rd, rd, err
	}
	if rd, err = c.Open(ctx, name, os.O_RDONLY); err != nil {
		return nil, nil, err
	}
	wr, err = c.Open(ctx, name, os.O_WRONLY)
	return rd, wr, err
}

// copyChunks writes to w each piece of in at once.
func copyChunks(w io.Writer, in io.Reader) error {
	buf := make([]byte, ioSize)
	for {
		n, err := in.Read(buf)
		if n > 0 {
			if _, werr := w.Write(buf[:n]); werr != nil {
				return werr
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

// relayStream copies in to the stream, whose end it passes on, and the stream to out,
// until the guest ends its side. The goroutine that copies in may be left in its
// read of in.
func relayStream(s *client.Stream, in io.Reader, out io.Writer) error {
	written := make(chan error, 1)
	go func() {
		err := copyChunks(s, in)
		if err == nil {
			err = s.CloseWrite()
		}
		written <- err
	}()
	read := make(chan error, 1)
	go func() { read <- copyOut(out, s) }()
	for {
		select {
		case err := <-read:
			return err
		case err := <-written:
			// A guest that reads no more may still have something to say.
			if err != nil && !refusesInput(err) {
				return err
			}
			written = nil
		}
	}
}

// refusesInput tells whether an error is that of a guest that has closed its side,
// of which the reading end hears too.
func refusesInput(err error) bool {
	return errors.Is(err, linux.EPIPE) || errors.Is(err, linux.ECONNRESET)
}
