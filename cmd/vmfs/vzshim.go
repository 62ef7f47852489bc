package main

import (
	"github.com/spf13/cobra"

	"vmfs/backends/vz/framework"
	"vmfs/backends/vz/shim"
)

// newVZShim is the process that a VM of the back end vz lives in. The back end starts it,
// and nobody else: so it is not in the help.
func newVZShim(engine shim.Engine) *cobra.Command {
	return &cobra.Command{
		Use:                shim.Name,
		Short:              "The process of one VM of the back end vz",
		Hidden:             true,
		DisableFlagParsing: true, // it has its own
		RunE: func(_ *cobra.Command, args []string) error {
			if status := shim.Main(args, engine); status != exitOK {
				return exitStatus(status)
			}
			return nil
		},
	}
}

// vzEngine is what makes the VMs of vz; tests have another.
var vzEngine = framework.New
