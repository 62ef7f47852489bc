// Command vmfs serves the virtual machines of a host over 9P, a directory for
// each, and is a 9P client for the shell that talks to such a server.
//
// The same binary is the init of the demo guest: as process 1, or as `vmfs guest
// init`, it is the guest's agent and nothing else.
//
// It is the top of the import graph: it links every other package, and none of
// them imports it.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"vmfs/internal/printable"
)

// Exit statuses.
const (
	exitOK      = 0
	exitFailure = 1 // the operation failed
	exitUsage   = 2 // the command line was wrong
)

func main() {
	if guestMain() {
		return
	}
	os.Exit(run(os.Args[1:]))
}

// run is the command line args, and returns the exit status.
func run(args []string) int {
	root, ran := newRoot()
	root.SetArgs(args)
	err := root.Execute()
	var status exitStatus
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &status):
		return int(status)
	case errors.Is(err, errReported):
		return exitFailure
	}
	report(err)
	var u *usageError
	if !*ran || errors.As(err, &u) {
		fmt.Fprintf(os.Stderr, "vmfs: `%s --help` says more\n", helpFor(root, args))
		return exitUsage
	}
	return exitFailure
}

// newRoot returns the command tree. ran is set once a command's own code is
// reached: what fails before that is the command line.
func newRoot() (root *cobra.Command, ran *bool) {
	ran = new(bool)
	root = &cobra.Command{
		Use:   "vmfs",
		Short: "Every virtual machine of a host is a directory, served over 9P",
		Long: `vmfs serve makes every VM of this host a directory served over 9P. The other
commands are a 9P client for the shell; mounting the server does as well.`,
		Example: `  vmfs serve &
  vmfs mkdir web
  printf 'memory=512M\nkernel=/boot/vmlinuz\n' | vmfs write web/config
  vmfs write web/ctl start
  vmfs wait web running --timeout 10s
  vmfs cat web/console`,
		Args:          cobra.NoArgs,
		Version:       versionString(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Run:           func(cmd *cobra.Command, _ []string) { cmd.Help() },
	}
	root.SetVersionTemplate(versionLine())
	client := &cobra.Group{ID: "client", Title: "Files of a server:"}
	server := &cobra.Group{ID: "server", Title: "Servers and guests:"}
	root.AddGroup(client, server)
	for _, c := range []*cobra.Command{
		newLs(), newCat(), newWrite(), newRdwr(), newExec(), newStat(), newWait(), newMkdir(), newRmdir(),
	} {
		c.GroupID = client.ID
		root.AddCommand(c)
	}
	for _, c := range []*cobra.Command{newServe(), newMount(), newGuest()} {
		c.GroupID = server.ID
		root.AddCommand(c)
	}
	root.AddCommand(newVersion(), newVZShim(vzEngine()))
	note(root, ran)
	return root, ran
}

// note makes every command below c set ran when its own code is reached.
func note(c *cobra.Command, ran *bool) {
	if run := c.RunE; run != nil {
		c.RunE = func(cmd *cobra.Command, args []string) error {
			*ran = true
			return run(cmd, args)
		}
	}
	for _, sub := range c.Commands() {
		note(sub, ran)
	}
}

// helpFor returns the words that name the command which args were meant for.
func helpFor(root *cobra.Command, args []string) string {
	if c, _, err := root.Find(args); err == nil {
		return c.CommandPath()
	}
	return root.CommandPath()
}

// errReported is a failure that has been printed already, as by commands that
// go on with their next argument.
var errReported = errors.New("failed")

// An exitStatus is one that is not vmfs's own but passed on.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// report prints a failure. What a server, a guest or a file name says
// in it does not get at the terminal.
func report(err error) { fmt.Fprintln(os.Stderr, "vmfs:", printable.Text(err.Error())) }

// A usageError is a command line that was wrong in a way that only the command
// itself could see.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, a ...any) error {
	return &usageError{fmt.Errorf(format, a...)}
}
