package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"vmfs/backends/hypervisor"
)

// A program is a QEMU that was found and asked what it is.
type program struct {
	path    string
	version string // "7.2.22"
	sandbox bool   // whether -sandbox is built in
}

// probeTimeout bounds the question for the version. QEMU answers within 100 ms.
const probeTimeout = 10 * time.Second

// probes keeps what programs said, as long as their files do not change.
type probes struct {
	mu   sync.Mutex // guards byID
	byID map[probeID]program
}

type probeID struct {
	path string
	time time.Time
	size int64
}

// ask asks the program at path what it is.
func (p *probes) ask(ctx context.Context, path string) (program, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return program{}, err
	}
	id := probeID{path, fi.ModTime(), fi.Size()}
	p.mu.Lock()
	known, ok := p.byID[id]
	p.mu.Unlock()
	if ok {
		return known, ctx.Err()
	}
	prog := program{path: path, sandbox: true}
	// One question for both: where the sandbox is not built in the option fails.
	out, err := runProbe(ctx, path, "-sandbox", "on", "-version")
	if err != nil && ctx.Err() == nil {
		prog.sandbox = false
		out, err = runProbe(ctx, path, "-version")
	}
	if err != nil {
		return program{}, fmt.Errorf("%s -version: %w", path, err)
	}
	if prog.version = parseVersion(out); prog.version == "" {
		return program{}, fmt.Errorf("%s is no QEMU: its -version says %q", path, firstLine(out))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.byID == nil {
		p.byID = make(map[probeID]program)
	}
	p.byID[id] = prog
	return prog, nil
}

func runProbe(ctx context.Context, path string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = environment()
	cmd.WaitDelay = time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		if said := strings.TrimSpace(errs.String()); said != "" {
			return "", fmt.Errorf("%w: %s", err, said)
		}
		return "", err
	}
	return out.String(), nil
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
	path, err := exec.LookPath(name)
	if errors.Is(err, exec.ErrDot) {
		err = nil
	}
	if err != nil {
		if set == "" {
			return "", fmt.Errorf("%w: install QEMU (Debian: apt-get install qemu-system), or say where it is", err)
		}
		return "", err
	}
	return filepath.Abs(path)
}

// checkVersion says whether a version is the one asked for: "7.2" is 7.2.22 too.
func checkVersion(have, want string) error {
	if want == "" || have == want || strings.HasPrefix(have, want+".") {
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

// environment is QEMU's: nothing of the server's that is not needed.
func environment() []string {
	env := []string{"LC_ALL=C.UTF-8"}
	for _, key := range []string{"PATH", "TMPDIR", "LD_LIBRARY_PATH"} {
		if v, ok := os.LookupEnv(key); ok {
			env = append(env, key+"="+v)
		}
	}
	return env
}
