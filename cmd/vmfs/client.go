package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"vmfs/client"
	"vmfs/fs"
	"vmfs/ninep/dial"
)

const (
	// ioSize is the longest line that is one write, and the most that is read at once.
	ioSize = 60 << 10
	// connectTimeout bounds connecting and the first messages; a server that is
	// there answers at once.
	connectTimeout = 10 * time.Second
)

// addrFlag adds --addr to a client command.
func addrFlag(cmd *cobra.Command) {
	cmd.Flags().String("addr", "", "`server` to talk to: unix!PATH, tcp!HOST!PORT or vsock!CID!PORT (default $VMFS_ADDR, else "+defaultSocket()+")")
	cmd.RegisterFlagCompletionFunc("addr", cobra.NoFileCompletions)
}

// serverAddr returns the address that cmd's flags and the environment name.
func serverAddr(cmd *cobra.Command) string {
	if a, _ := cmd.Flags().GetString("addr"); a != "" {
		return a
	}
	if a := os.Getenv("VMFS_ADDR"); a != "" {
		return a
	}
	return "unix!" + defaultSocket()
}

// connect attaches to the server that cmd names.
//
// Client commands leave SIGINT and SIGTERM to their default action: the process
// is gone at once, and the server cancels what it did for it when the
// connection drops.
func connect(cmd *cobra.Command) (*client.Client, error) {
	ctx, cancel := context.WithTimeout(cmd.Context(), connectTimeout)
	defer cancel()
	return attachTo(ctx, serverAddr(cmd))
}

// eachPath calls do with each path, and reports failures as those of the command.
func eachPath(cmd *cobra.Command, paths []string, do func(ctx context.Context, c *client.Client, name string) error) error {
	c, err := connect(cmd)
	if err != nil {
		return err
	}
	defer c.Close()
	var result error
	for _, name := range paths {
		if err := do(cmd.Context(), c, name); err != nil {
			report(fmt.Errorf("%s %s: %w", cmd.Name(), name, err))
			result = errReported
		}
	}
	return result
}

// attachTo attaches to the server at addr. The end of ctx ends it.
func attachTo(ctx context.Context, addr string) (*client.Client, error) {
	c, err := client.Dial(ctx, addr)
	var said *client.Error
	switch {
	case errors.Is(err, dial.ErrAddress):
		return nil, usagef("%w", err)
	case err == nil || errors.As(err, &said): // it is a 9P server, and says no
		return c, err
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("%w: it lets in its server's user and root, unless told to let in a group, see vmfs serve --help", err)
	}
	return nil, fmt.Errorf("%w: is vmfs serve running there? (--addr or $VMFS_ADDR names another server)", err)
}

// vmOf returns the VM to which name belongs, or "".
func vmOf(name string) string {
	names := client.Split(name)
	if len(names) == 0 || slices.Contains(fs.RootNames(), names[0]) {
		return ""
	}
	return names[0]
}
