package guesttest

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
	"testing"
	"time"

	"vmfs/guest"
	"vmfs/internal/flock"
)

// buildTimeout bounds one image with its downloads.
const buildTimeout = 10 * time.Minute

// Image returns the default guest: Debian's current cloud kernel, the agent and
// busybox.
func Image(t testing.TB) (kernel, initrd string) {
	t.Helper()
	return Build(t, guest.Options{})
}

// V9FS returns a guest with Debian's full kernel of a series ("6.1" or "6.12"),
// its 9p client over TCP loaded, and the given files in it. Boot it with
// vmfs.net=user and a user network, and the host's 127.0.0.1 is 10.0.2.2.
func V9FS(t testing.TB, series string, files ...guest.File) (kernel, initrd string) {
	t.Helper()
	return Build(t, guest.Options{
		Package:      Kernel(t, series, ""),
		ExtraModules: []string{"9pnet_fd", "9p"},
		Files:        files,
	})
}

// Script returns the file that the agent runs after the boot instead of the
// console's shell. Its output goes to the console, followed by
// "vmfs guest: script exited N", and the guest powers off.
func Script(content string) guest.File {
	return guest.File{Path: guest.ScriptPath, Content: []byte(content), Mode: 0o755}
}

// Kernel returns Debian's current kernel package of a series, such as "6.12".
// The flavour is "" for the full kernel or "cloud".
func Kernel(t testing.TB, series, flavour string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	tail := runtime.GOARCH
	if flavour != "" {
		tail = flavour + "-" + tail
	}
	// The series of a Debian release has no meta package of its own name.
	var tried []string
	for _, meta := range []string{"linux-image-" + series + "-" + tail, "linux-image-" + tail} {
		name, err := (&guest.Options{Package: meta}).ResolveKernel(ctx)
		if errors.Is(err, exec.ErrNotFound) {
			Missing(t, err.Error())
		}
		if err == nil && strings.HasPrefix(name, "linux-image-"+series+".") {
			return name
		}
		if err == nil {
			err = fmt.Errorf("%s is now %s", meta, name)
		}
		tried = append(tried, err.Error())
	}
	Missing(t, fmt.Sprintf("no Debian kernel %s here: %s", series, strings.Join(tried, "; ")))
	return ""
}

// Build returns the image for the options, from the cache if it is there. Dir,
// Agent and Cache are chosen here.
func Build(t testing.TB, o guest.Options) (kernel, initrd string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), buildTimeout)
	defer cancel()
	img, err := build(ctx, t, o)
	if errors.Is(err, exec.ErrNotFound) {
		Missing(t, err.Error())
	}
	if err != nil {
		t.Fatalf("guesttest: %v", err)
	}
	return img.Kernel, img.Initrd
}

// Missing ends a test for something that is not there: it skips, but with
// CI=true, where everything has to be there, it fails.
func Missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(what)
	}
	t.Skip(what)
}

func build(ctx context.Context, t testing.TB, o guest.Options) (*guest.Image, error) {
	root, err := repoRoot(ctx)
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
	o.Logf = t.Logf
	if o.Package == "" && o.Deb == "" && o.Vmlinuz == "" {
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
	agent, sum, err := buildAgent(ctx, root, cache, cmp.Or(o.Arch, runtime.GOARCH))
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

// buildAgent compiles the agent for an architecture and returns its path and sum.
func buildAgent(ctx context.Context, root, cache, arch string) (path, sum string, err error) {
	tmp, err := os.MkdirTemp(cache, "agent-build-")
	if err != nil {
		return "", "", err
	}
	defer os.RemoveAll(tmp)
	bin := filepath.Join(tmp, "init")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", bin, "./guest/internal/initmain")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOFLAGS=-buildvcs=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", "", fmt.Errorf("build the agent: %w: %s", err, bytes.TrimSpace(out))
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

// repoRoot returns the directory of the module under test.
func repoRoot(ctx context.Context) (string, error) {
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
