package qemu

import (
	"context"
	"fmt"
	"strings"

	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
)

// A program is a QEMU that was found and asked what it is.
type program struct {
	path    string
	version string // "7.2.22"
	sandbox bool   // whether -sandbox is built in
}

// probe asks the program at path what it is.
func probe(ctx context.Context, path string) (program, error) {
	prog := program{path: path, sandbox: true}
	// One question for both: where the sandbox is not built in the option fails.
	out, err := process.Output(ctx, path, "-sandbox", "on", "-version")
	if err != nil && ctx.Err() == nil {
		prog.sandbox = false
		out, err = process.Output(ctx, path, "-version")
	}
	if err != nil {
		return program{}, fmt.Errorf("%s -version: %w", path, err)
	}
	if prog.version = parseVersion(out); prog.version == "" {
		return program{}, fmt.Errorf("%s is not QEMU: its -version says %q", path, firstLine(out))
	}
	return prog, nil
}

// parseVersion finds 7.2.22 in "QEMU emulator version 7.2.22 (Debian ...)".
func parseVersion(out string) string {
	_, rest, ok := strings.Cut(firstLine(out), "QEMU emulator version ")
	if !ok {
		return ""
	}
	version, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	return version
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// findProgram returns the path of QEMU: what is set, by path or by a name in
// PATH, or the one for this host's architecture in PATH.
func findProgram(set string) (string, error) {
	name := set
	if name == "" {
		a, err := hostArch()
		if err != nil {
			return "", err
		}
		name = programPrefix + a.name
	}
	path, err := process.Look(name)
	if err != nil && set == "" {
		err = fmt.Errorf("%w: install QEMU (Debian: apt-get install qemu-system), or say where it is", err)
	}
	return path, err
}

// checkVersion says whether a version is the one asked for: "7.2" is 7.2.22 too.
func checkVersion(have, want string) error {
	if process.HasVersion(have, want) {
		return nil
	}
	return fmt.Errorf("there is no QEMU %s here, only %s: %w", want, have, hypervisor.ErrInvalid)
}

// atLeast tells whether a version is not older than another. One that cannot be
// read is not.
func atLeast(version string, major, minor int) bool {
	var a, b int
	if n, err := fmt.Sscanf(version, "%d.%d", &a, &b); err != nil || n != 2 {
		return false
	}
	return a > major || a == major && b >= minor
}
