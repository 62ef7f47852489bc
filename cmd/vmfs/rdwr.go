package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/hugelgupf/p9/p9"
	"github.com/spf13/cobra"
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
			s, err := connect(cmd)
			if err != nil {
				return err
			}
			defer s.close()
			exitWithReader(cmd.OutOrStdout())
			if vm, verb, ok := vsockPort(args[0]); ok {
				var c *conversation
				if c, err = s.converse(vm, verb); err == nil {
					err = c.relay(cmd.InOrStdin(), cmd.OutOrStdout())
				}
				if err != nil {
					return fmt.Errorf("rdwr %s: %w", args[0], err)
				}
				return nil
			}
			if err := s.rdwr(args[0], cmd.InOrStdin(), cmd.OutOrStdout()); err != nil {
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
	text    sharing = iota // nothing: each reads a content and writes commands
	shared                 // one stream for all
	private                // a stream for each open
	cloned                 // a ctl for each open, once its first read has made what it is for
)

// sharingOf tells what kind of file name is, by its place in the tree.
func sharingOf(name string) sharing {
	names := splitPath(name)
	n := len(names)
	switch {
	case n > 0 && names[n-1] == "clone":
		return cloned
	case n == 2 && names[1] == "console", n == 4 && names[1] == "vsock" && names[3] == "data":
		return shared
	case n == 3 && names[1] == "vsock", n == 4 && names[1] == "vsock" && names[2] == "listen":
		return private
	}
	return text
}

// rdwr copies in to the file name and the file to out, until the file ends and,
// if it is no stream, in as well. The goroutine that copies in may be left in its
// read of in: the process ends with the command.
func (s *session) rdwr(name string, in io.Reader, out io.Writer) error {
	kind := sharingOf(name)
	rd, wr, err := s.openBoth(name, kind)
	if err != nil {
		return lost(err)
	}
	if kind == cloned {
		buf := make([]byte, ioSize)
		n, err := rd.Read(buf)
		if err != nil {
			return lost(err)
		}
		if _, err := out.Write(buf[:n]); err != nil {
			return fmt.Errorf("%w: %w", errOutput, err)
		}
		// Errors are those of what was made.
		name = path.Join(path.Dir(path.Clean("/"+name)), strings.TrimSpace(string(buf[:n])), "ctl")
	}
	written := make(chan error, 1)
	go func() {
		err := copyChunks(wr, in)
		if wr != rd {
			if cerr := wr.Close(); err == nil {
				err = cerr
			}
		}
		written <- err
	}()
	read := make(chan error, 1)
	go func() { read <- rd.copyTo(out) }()
	for left := 2; left > 0; left-- {
		select {
		case err := <-read:
			if err != nil || kind == shared || kind == private {
				return err
			}
		case err := <-written:
			var input *os.PathError
			if err != nil && errors.As(err, &input) {
				return err
			}
			if err != nil {
				return s.explain(name, wr.last, err)
			}
		}
	}
	return nil
}

// openBoth opens name to read and to write: once or twice, as its kind wants.
func (s *session) openBoth(name string, kind sharing) (rd, wr *file, err error) {
	if kind == private || kind == cloned {
		rd, err = s.open(name, p9.ReadWrite)
		return rd, rd, err
	}
	if rd, err = s.open(name, p9.ReadOnly); err != nil {
		return nil, nil, err
	}
	wr, err = s.open(name, p9.WriteOnly)
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
