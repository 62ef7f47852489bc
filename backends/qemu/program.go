package qemu

import (
	"context"
	"fmt"

	"vmfs/backends/process"
	"vmfs/backends/starter"
)

// A program is a QEMU that was found and asked what it is.
type program struct {
	starter.Program
	sandbox bool // whether -sandbox is built in
}

// probe asks the program at path what it is.
func probe(ctx context.Context, path string) (program, error) {
	prog := program{starter.Program{Path: path}, true}
	// One question for both: where the sandbox is not built in the option fails.
	out, err := process.Output(ctx, path, "-sandbox", "on", "-version")
	if err != nil && ctx.Err() == nil {
		prog.sandbox = false
		out, err = process.Output(ctx, path, "-version")
	}
	if err != nil {
		return program{}, fmt.Errorf("%s -version: %w", path, err)
	}
	if prog.Version = parseVersion(out); prog.Version == "" {
		return program{}, fmt.Errorf("%s is not QEMU: its -version says %q", path, starter.FirstLine(out))
	}
	return prog, nil
}

// parseVersion finds 7.2.22 in "QEMU emulator version 7.2.22 (Debian ...)".
func parseVersion(out string) string { return starter.VersionIn(out, "QEMU emulator version ") }

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

// atLeast tells whether a version is not older than another. One that cannot be
// read is not.
func atLeast(version string, major, minor int) bool {
	var a, b int
	if n, err := fmt.Sscanf(version, "%d.%d", &a, &b); err != nil || n != 2 {
		return false
	}
	return a > major || a == major && b >= minor
}
