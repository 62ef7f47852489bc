package starter

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
)

// A Program is a VMM's, which was found and asked what it is.
type Program struct {
	Path    string
	Version string // "7.2.22"
}

func (p Program) program() Program { return p }

// A Programmed is a Program, or has one embedded beside what else that tells of itself.
type Programmed interface{ program() Program }

// VersionIn finds a version, up to a space, in the first line of what a program says, behind
// the words before: 7.2.22 in "QEMU emulator version 7.2.22 (Debian ...)".
func VersionIn(said, before string) string {
	_, rest, ok := strings.Cut(FirstLine(said), before)
	if !ok {
		return ""
	}
	version, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	return version
}

// FirstLine is that of what a program says.
func FirstLine(said string) string {
	line, _, _ := strings.Cut(said, "\n")
	return line
}

// binary returns what names the program, the most special setting first.
func (f *Starter[V, P]) binary(p *hypervisor.Paths, config hypervisor.VMConfig) string {
	return cmp.Or(config.Extras[string(f.c.Type)+".binary"], p.Binary(f.c.Type), f.c.Binary)
}

// Program finds the program for a VM, and asks it what it is.
func (f *Starter[V, P]) Program(ctx context.Context, r Request, config hypervisor.VMConfig) (P, error) {
	var none P
	path, err := f.c.Look(f.binary(r.Paths, config))
	if err != nil {
		return none, err
	}
	prog, err := f.probes.Ask(ctx, path, f.c.Probe)
	if err != nil {
		return none, err
	}
	if have := prog.program().Version; !process.HasVersion(have, strings.TrimPrefix(r.Version, "v")) {
		return none, fmt.Errorf("there is no %s %s here, only %s: %w", f.c.VMM, r.Version, have, hypervisor.ErrInvalid)
	}
	return prog, nil
}

// GetBinaryPath returns the VMM's program, which has the version if one is given: "7.2" is
// 7.2.22 too.
func (f *Starter[V, P]) GetBinaryPath(p *hypervisor.Paths, version string) (string, error) {
	if version == "" { // none is asked
		path, err := f.c.Look(f.binary(p, hypervisor.VMConfig{}))
		return path, f.wrap("", err)
	}
	prog, err := f.Program(context.Background(), Request{Paths: p, Version: version}, hypervisor.VMConfig{})
	return prog.program().Path, f.wrap("", err)
}

// GetVersion asks the VMM's program for its version.
func (f *Starter[V, P]) GetVersion(p *hypervisor.Paths) (string, error) {
	prog, err := f.Program(context.Background(), Request{Paths: p}, hypervisor.VMConfig{})
	return prog.program().Version, f.wrap("", err)
}
