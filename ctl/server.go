package ctl

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"vmfs/machine"
)

// Server is what the server's ctl file acts on: the VMs of the host, for one
// user.
type Server interface {
	Create(ctx context.Context, name string) error
	Delete(ctx context.Context, name string) error
}

var serverTable = []Verb[Server]{
	{
		machine.Syntax{Name: "create", Args: "NAME", Min: 1, Max: 1, Help: "makes a VM, as mkdir does"},
		func(ctx context.Context, s Server, args []string) error { return s.Create(ctx, args[0]) },
	},
	{
		machine.Syntax{Name: "delete", Args: "NAME", Min: 1, Max: 1, Help: "removes a VM that does not run, as rmdir does"},
		func(ctx context.Context, s Server, args []string) error { return s.Delete(ctx, args[0]) },
	},
}

// ServerVerbs returns the table of the server's ctl file.
func ServerVerbs() []Verb[Server] { return slices.Clone(serverTable) }

// RunServer carries out the control messages of text on the server.
func RunServer(ctx context.Context, s Server, text string) error {
	_, err := run(ctx, serverTable, s, text)
	return err
}

// ServerUsage returns the server's verbs, one a line.
func ServerUsage() string {
	var b strings.Builder
	for _, v := range serverTable {
		fmt.Fprintln(&b, v.Usage())
	}
	return b.String()
}
