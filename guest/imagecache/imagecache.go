// Package imagecache builds images that guests boot once per machine and input, and
// keeps them in the directory that VMFS_GUEST_CACHE names, or in build/guest-cache of
// the checkout. Builders in several processes take turns. An image that was not used
// for a week is removed. The program in an image is built afresh from the checkout.
//
// The package imports guest and internal/flock, and runs the go tool.
package imagecache

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"vmfs/guest"
	"vmfs/internal/flock"
)

// Agent is the package of the guest's agent alone, without the rest of vmfs.
const Agent = "./guest/internal/initmain"

// Build returns the image for the options, from the cache if it is there. Dir, Agent,
// Cache and Logf are chosen here: /init is the program of this package of the module.
func Build(ctx context.Context, program string, o guest.Options, logf func(format string, args ...any)) (*guest.Image, error) {
	root, err := Root(ctx)
	if err != nil {
		return nil, err
	}
	cache := os.Getenv("VMFS_GUEST_CACHE")
	if cache == "" {
		cache = filepath.Join(root, "build", "guest-cache")
	}
	if cache, err = filepath.Abs(cache); err != nil {
		return nil, err
	}
	o.Cache = filepath.Join(cache, "kernels")
	o.Logf = logf
	if o.Deb == "" && o.Vmlinuz == "" {
		// The package of today, so that tomorrow's is another image.
		if o.Package, err = o.ResolveKernel(ctx); err != nil {
			return nil, err
		}
	}

	// The agent is built under the cache's lock into a file named after its content.
	lock, err := flock.MakeDir(ctx, cache)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", cache, err)
	}
	agent, sum, err := buildAgent(ctx, root, cache, program, cmp.Or(o.Arch, runtime.GOARCH))
	lock.Close()
	if err != nil {
		return nil, err
	}
	o.Agent = agent
	key, err := imageKey(root, sum, o)
	if err != nil {
		return nil, err
	}
	o.Dir = filepath.Join(cache, "image-"+key)
	if lock, err = flock.MakeDir(ctx, o.Dir); err != nil {
		return nil, fmt.Errorf("lock %s: %w", o.Dir, err)
	}
	defer lock.Close()
	now := time.Now()
	if err := os.Chtimes(o.Dir, now, now); err != nil { // for prune
		return nil, err
	}
	img := &guest.Image{Kernel: filepath.Join(o.Dir, "vmlinuz"), Initrd: filepath.Join(o.Dir, "initrd")}
	if _, err := os.Stat(img.Initrd); err == nil { // it is moved into place last
		return img, nil
	}
	prune(cache, now.Add(-7*24*time.Hour))
	return guest.Build(ctx, o)
}

// buildAgent compiles the program for an architecture and returns its path and sum.
func buildAgent(ctx context.Context, root, cache, program, arch string) (path, sum string, err error) {
	tmp, err := os.MkdirTemp(cache, "agent-build-")
	if err != nil {
		return "", "", err
	}
	defer os.RemoveAll(tmp)
	bin := filepath.Join(tmp, "init")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", bin, program)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOFLAGS=-buildvcs=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", "", fmt.Errorf("build %s: %w: %s", program, err, bytes.TrimSpace(out))
	}
	if sum, err = fileSum(bin); err != nil {
		return "", "", err
	}
	path = filepath.Join(cache, "agent-"+sum[:16])
	if err := os.Rename(bin, path); err != nil {
		return "", "", err
	}
	return path, sum, nil
}

// imageKey names an image by all that goes into it: the agent, the options, the
// content of added files, and the builder's own source.
func imageKey(root, agentSum string, o guest.Options) (string, error) {
	o.Agent, o.Dir, o.Cache = agentSum, "", ""
	in, err := json.Marshal(o)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	h.Write(in)
	var files []string
	for _, f := range o.Files {
		if f.Source != "" {
			files = append(files, f.Source)
		}
	}
	for _, pattern := range []string{"guest/*.go", "guest/internal/newc/*.go"} {
		src, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(pattern)))
		if err != nil {
			return "", err
		}
		files = append(files, src...)
	}
	for _, name := range append(files, "/bin/busybox", o.Deb, o.Vmlinuz) {
		sum, err := fileSum(name)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
		fmt.Fprintf(h, "%s\n", sum)
	}
	return hex.EncodeToString(h.Sum(nil))[:20], nil
}

func fileSum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// prune removes images and agents that were last used before a time.
func prune(cache string, before time.Time) {
	entries, err := os.ReadDir(cache)
	if err != nil {
		return
	}
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil || !fi.ModTime().Before(before) {
			continue
		}
		if strings.HasPrefix(e.Name(), "image-") || strings.HasPrefix(e.Name(), "agent-") {
			os.RemoveAll(filepath.Join(cache, e.Name()))
		}
	}
}

// Root returns the directory of the module under test.
func Root(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	mod := strings.TrimSpace(string(out))
	if !slices.Contains([]string{"", os.DevNull}, mod) {
		return filepath.Dir(mod), nil
	}
	return "", errors.New("not in a checkout of vmfs: no go.mod here or above")
}
