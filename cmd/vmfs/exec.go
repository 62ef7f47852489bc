package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"vmfs/client"
	"vmfs/guest/exec"
	"vmfs/guest/exec/foreground"
)

// exitNoExec is the exit status where the guest's program has none.
const exitNoExec = 255

func newExec() *cobra.Command {
	var o struct {
		tty bool
		dir string
		env []string
	}
	cmd := &cobra.Command{
		Use:   "exec [-t] [-C DIR] [-e KEY=VALUE]… VM COMMAND [ARG…]",
		Short: "Run a program in a guest",
		Long: `Run a program in a guest that has vmfs's agent, over vsock (port 1025): with
its own standard input, output and error, and its exit status, which is 128+N
if signal N ended it. Where the program cannot be started it is 127 or 126, as
of a shell; where that is not known, because the VM or the server ended first,
it is 255.

SIGINT, SIGTERM, SIGHUP and SIGQUIT are passed on to the program; the third one
ends this command, and then the guest ends the program. With -t the program
gets a terminal, of the size of this one and raw if there is one: keys then go
to the program. The command is no shell command: for pipes and the like run
sh -c. The flags may also stand behind the VM.`,
		Example: `  vmfs exec web uname -a
  vmfs exec -t web sh
  vmfs exec web tar -C /etc -cf - . >etc.tar
  vmfs exec web sh -c 'cat >/tmp/x' <x`,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: completeExec,
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		// Flags end at the VM, so that the program's own are left alone; those in
		// between are ours.
		if len(args) > 1 && strings.HasPrefix(args[1], "-") {
			vm := args[0]
			if err := cmd.Flags().Parse(args[1:]); err != nil {
				return usagef("exec: %w", err)
			}
			args = append([]string{vm}, cmd.Flags().Args()...)
		}
		if len(args) < 2 {
			return usagef("exec: want a VM and a command")
		}
		c, err := connect(cmd)
		if err != nil {
			return err
		}
		defer c.Close()
		vm := strings.Trim(args[0], "/")
		s, err := c.Connect(cmd.Context(), vm, exec.FramedPort)
		if err != nil {
			report(fmt.Errorf("exec %s: %w", vm, err))
			return exitStatus(exitNoExec)
		}
		return runInGuest(cmd, vm, s, o.tty, exec.Command{Args: args[1:], Dir: o.dir, Env: o.env})
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.BoolVarP(&o.tty, "tty", "t", false, "give the program a terminal")
	f.StringVarP(&o.dir, "directory", "C", "", "`directory` of the guest to run it in (default /root)")
	f.StringArrayVarP(&o.env, "env", "e", nil, "`KEY=VALUE` to add to its environment")
	addrFlag(cmd)
	return cmd
}

// runInGuest runs a program and returns its exit status as the error, nil for 0.
func runInGuest(cmd *cobra.Command, vm string, s *client.Stream, tty bool, command exec.Command) error {
	command.Stdin, command.Stdout, command.Stderr = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
	exitWithReader(cmd.OutOrStdout())
	status, err := foreground.Run(cmd.Context(), s, command, tty)
	var start *exec.StartError
	switch {
	case errors.As(err, &start):
		report(fmt.Errorf("exec %s: %w", vm, err))
		return exitStatus(start.Status)
	case err != nil:
		report(fmt.Errorf("exec %s: %w", vm, lostStream(err)))
		return exitStatus(exitNoExec)
	case status != 0:
		return exitStatus(status)
	}
	return nil
}

// lostStream makes readable the error of a run whose stream ended.
func lostStream(err error) error {
	if refusesInput(err) {
		return fmt.Errorf("%w: the VM has ended, or its guest or vsock device began anew", err)
	}
	return err
}
