package process

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
)

// Look returns the absolute path of a program given by its path or by a name in PATH.
func Look(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil && !errors.Is(err, exec.ErrDot) {
		return "", err
	}
	return filepath.Abs(path)
}

// Probes keeps what programs have said of themselves for as long as their files do
// not change. Its zero value is ready.
type Probes[T any] struct {
	mu    sync.Mutex // guards known
	known map[file]T
}

// A file is a program's as it was when it was asked.
type file struct {
	path string
	time time.Time
	size int64
}

// Ask returns what ask found out about the program at path, now or earlier.
func (p *Probes[T]) Ask(ctx context.Context, path string, ask func(ctx context.Context, path string) (T, error)) (T, error) {
	var none T
	fi, err := os.Stat(path)
	if err != nil {
		return none, err
	}
	id := file{path, fi.ModTime(), fi.Size()}
	p.mu.Lock()
	known, ok := p.known[id]
	p.mu.Unlock()
	if ok {
		return known, ctx.Err()
	}
	found, err := ask(ctx, path)
	if err != nil {
		return none, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known == nil {
		p.known = make(map[file]T)
	}
	p.known[id] = found
	return found, nil
}

// answerTimeout bounds a program's answer to a question about itself, which mostly
// takes a tenth of a second, and seconds where a busy host reads the program for the first time.
const answerTimeout = 30 * time.Second

// Output runs a program that says something about itself, and returns that; of one that
// fails, all that it has said.
func Output(ctx context.Context, path string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = Environment()
	cmd.WaitDelay = time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		if said := strings.TrimSpace(errs.String()); said != "" {
			err = fmt.Errorf("%w: %s", err, said)
		}
		return out.String() + errs.String(), err
	}
	return out.String(), nil
}

// HasVersion tells whether a version is the one that is wanted: "7.2" is 7.2.22 too,
// and "" any.
func HasVersion(have, want string) bool {
	return want == "" || have == want || strings.HasPrefix(have, want+".")
}
