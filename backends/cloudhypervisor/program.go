package cloudhypervisor

import (
	"context"
	"fmt"
	"os"

	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
	"vmfs/backends/starter"
)

const (
	// programName is what is looked for in PATH.
	programName = "cloud-hypervisor"
	// programVariable names the program in the environment.
	programVariable = "VMFS_CLOUD_HYPERVISOR"
	// releases is where the program can be had.
	releases = "https://github.com/cloud-hypervisor/cloud-hypervisor/releases"
	// leastMajor is the first version that does all that this package counts on: half-close
	// on vsock, the guest's actual memory, restoring on demand.
	leastMajor = 53
)

// probe asks the program at path what it is. One that is too old, or whose version cannot be
// read, is refused.
func probe(ctx context.Context, path string) (starter.Program, error) {
	var none starter.Program
	out, err := process.Output(ctx, path, "--version")
	if err != nil {
		return none, fmt.Errorf("%s --version: %w", path, err)
	}
	version := parseVersion(out)
	if version == "" {
		return none, fmt.Errorf("%s is not Cloud Hypervisor: its --version says %q", path, starter.FirstLine(out))
	}
	var major int
	if _, err := fmt.Sscanf(version, "%d.", &major); err != nil || major < leastMajor {
		return none, fmt.Errorf("%s is Cloud Hypervisor %s, and vmfs needs %d.0 or later: get one at %s: %w",
			path, version, leastMajor, releases, hypervisor.ErrNotSupported)
	}
	return starter.Program{Path: path, Version: version}, nil
}

// parseVersion finds 53.0 in "cloud-hypervisor v53.0", and 53.0-246-g1234567 likewise.
func parseVersion(out string) string { return starter.VersionIn(out, programName+" v") }

// findProgram returns the path of Cloud Hypervisor: what is set, by path or by a name in
// PATH, or what the environment says, or the one in PATH.
func findProgram(set string) (string, error) {
	for _, name := range []string{set, os.Getenv(programVariable)} {
		if name != "" {
			return process.Look(name)
		}
	}
	path, err := process.Look(programName)
	if err != nil {
		err = fmt.Errorf("%w: get it at %s, and put it in $PATH, or say where it is (vmfs serve --cloud-hypervisor, $%s)", err, releases, programVariable)
	}
	return path, err
}
