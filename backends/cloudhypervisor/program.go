package cloudhypervisor

import (
	"context"
	"fmt"
	"os"
	"strings"

	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
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

// A program is a Cloud Hypervisor that was found and asked what it is.
type program struct {
	path    string
	version string // "53.0"
}

// probe asks the program at path what it is.
func probe(ctx context.Context, path string) (program, error) {
	out, err := process.Output(ctx, path, "--version")
	if err != nil {
		return program{}, fmt.Errorf("%s --version: %w", path, err)
	}
	prog := program{path: path, version: parseVersion(out)}
	if prog.version == "" {
		line, _, _ := strings.Cut(out, "\n")
		return program{}, fmt.Errorf("%s is not Cloud Hypervisor: its --version says %q", path, line)
	}
	return prog, prog.check()
}

// parseVersion finds 53.0 in "cloud-hypervisor v53.0", and 53.0-246-g1234567 likewise.
func parseVersion(out string) string {
	line, _, _ := strings.Cut(out, "\n")
	rest, ok := strings.CutPrefix(line, programName+" v")
	if !ok {
		return ""
	}
	version, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	return version
}

// check refuses a version that is too old, or that cannot be read.
func (p program) check() error {
	var major int
	if _, err := fmt.Sscanf(p.version, "%d.", &major); err == nil && major >= leastMajor {
		return nil
	}
	return fmt.Errorf("%s is Cloud Hypervisor %s, and vmfs needs %d.0 or later: get one at %s: %w",
		p.path, p.version, leastMajor, releases, hypervisor.ErrNotSupported)
}

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

// checkVersion says whether a version is the one asked for: "53" is 53.0 too.
func checkVersion(have, want string) error {
	if process.HasVersion(have, strings.TrimPrefix(want, "v")) {
		return nil
	}
	return fmt.Errorf("there is no Cloud Hypervisor %s here, only %s: %w", want, have, hypervisor.ErrInvalid)
}
