package vz

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"time"

	"vmfs/backends/process"
	"vmfs/backends/starter"
	"vmfs/backends/vz/shim"
	"vmfs/backends/vz/shimconfig"
)

// findProgram returns the path of the program whose vz-shim is meant: what is set, or this
// program itself.
func findProgram(set string) (string, error) {
	if set == "" {
		return os.Executable()
	}
	return process.Look(set)
}

// A program is one that was asked what this host can do.
type program struct {
	starter.Program // its version is the framework's, which is the operating system's
	host            shimconfig.Host
}

// probe asks the program's shim what this host can do.
func probe(ctx context.Context, path string) (p program, err error) {
	out, err := process.Output(ctx, path, shim.Name, "--"+shim.FlagHost)
	if err != nil {
		return p, fmt.Errorf("%s %s: %w", path, shim.Name, err)
	}
	if err := json.Unmarshal([]byte(out), &p.host); err != nil || p.host.Engine == "" {
		return p, fmt.Errorf("%s is not a vmfs with %s: it says %.200q", path, shim.Name, starter.FirstLine(out))
	}
	p.Program = starter.Program{Path: path, Version: p.host.Version}
	return p, nil
}

// checkTimeout bounds the framework's look at a configuration.
const checkTimeout = 10 * time.Second

// maxChecked is how many configurations the framework's word on which is kept.
const maxChecked = 256

// A checker keeps what the framework has said of configurations. Its zero value is ready.
type checker struct {
	mu   sync.Mutex // guards said
	said map[[sha256.Size]byte]shimconfig.Support
}

// check has the framework look at a configuration, without making anything. What it
// refuses is not kept: a file may be there the next time.
func (c *checker) check(path string, config *shimconfig.Config) (s shimconfig.Support, err error) {
	b, err := shimconfig.Marshal(config)
	if err != nil {
		return s, err
	}
	key := sha256.Sum256(append([]byte(path+"\x00"), b...))
	c.mu.Lock()
	s, ok := c.said[key]
	c.mu.Unlock()
	if ok {
		return s, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), checkTimeout) // Capabilities has none
	defer cancel()
	cmd := exec.CommandContext(ctx, path, shim.Name, "--"+shim.FlagCheck)
	cmd.Env, cmd.WaitDelay = process.Environment(), time.Second
	cmd.Stdin = bytes.NewReader(b)
	out, err := cmd.Output()
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(out, &s); err != nil {
		return s, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.said == nil || len(c.said) >= maxChecked {
		c.said = make(map[[sha256.Size]byte]shimconfig.Support)
	}
	c.said[key] = s
	return s, nil
}
