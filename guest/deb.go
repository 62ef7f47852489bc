package guest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"vmfs/internal/flock"
)

// runTool runs a program with an argument vector and returns what it printed.
// Its error carries the program's own words, and how to install it if it is missing.
func runTool(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if errors.Is(err, exec.ErrNotFound) {
		return nil, fmt.Errorf("%s is not installed: on Debian run `apt-get install %s`; elsewhere give a kernel and its modules by path: %w",
			name, toolPackage[name], err)
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%s: %w", name, ctx.Err())
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, oneLine(stderr.Bytes()))
	}
	return stdout.Bytes(), nil
}

// toolPackage says which Debian package has a tool.
var toolPackage = map[string]string{"apt-get": "apt", "apt-cache": "apt", "dpkg-deb": "dpkg"}

func oneLine(b []byte) string {
	return strings.Join(strings.FieldsFunc(string(b), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

// resolve returns the kernel package behind a Debian package name, and the packages
// that hold its files. The first is the name itself or, for a meta package such as
// linux-image-cloud-amd64, what it stands for today. The others are the same one,
// or, from Debian 14 on, those that it depends on for its kernel and its modules.
func (a *apt) resolve(ctx context.Context, name string) (image string, parts []string, err error) {
	defer explain(&err, "guest: find the kernel package %s", name)
	const hops = 4 // linux-image-cloud-amd64 needs one
	image = name
	for range hops {
		out, err := a.run(ctx, "", "apt-cache", "depends", "--no-recommends", "--no-suggests", image)
		if err != nil {
			return "", nil, err
		}
		next, parts, err := kernelDependencies(image, out)
		if err != nil {
			return "", nil, err
		}
		if next == "" {
			return image, parts, nil
		}
		image = next
	}
	return "", nil, fmt.Errorf("still a meta package after %d steps", hops)
}

// explain puts what was done before an error.
func explain(err *error, format string, args ...any) {
	if *err != nil {
		*err = fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), *err)
	}
}

// kernelDependencies looks through what `apt-cache depends` printed of a package.
// Of a meta package it returns the kernel package that it stands for, and of a
// kernel package those that hold its files.
func kernelDependencies(name string, out []byte) (next string, parts []string, err error) {
	release := strings.TrimPrefix(name, "linux-image-")
	for sc := bufio.NewScanner(bytes.NewReader(out)); sc.Scan(); {
		what, dep, ok := strings.Cut(strings.TrimSpace(sc.Text()), ": ")
		if !ok || what != "Depends" && what != "|Depends" {
			continue
		}
		bare := strings.Trim(dep, "<>")
		isImage := strings.HasPrefix(bare, "linux-image-")
		isPart := strings.HasPrefix(bare, "linux-") && strings.HasSuffix(bare, "-"+release)
		switch {
		case !isImage && !isPart:
		case bare != dep:
			return "", nil, fmt.Errorf("it depends on %s, which the package lists do not have", bare)
		case isImage:
			return dep, nil, nil
		default:
			parts = append(parts, dep)
		}
	}
	if parts == nil {
		parts = []string{name}
	}
	return "", parts, nil
}

// aptFile is one file that apt-get would download.
type aptFile struct {
	name   string
	sha256 string // hex; empty if the lists have another kind of sum
}

// parsePrintURIs reads the one line that `apt-get --print-uris download` prints:
// 'URI' FILENAME SIZE SHA256:SUM
func parsePrintURIs(out []byte) (aptFile, error) {
	for sc := bufio.NewScanner(bytes.NewReader(out)); sc.Scan(); {
		f := strings.Fields(sc.Text())
		if len(f) < 3 || !strings.HasPrefix(f[0], "'") {
			continue
		}
		if _, err := url.Parse(strings.Trim(f[0], "'")); err != nil {
			continue
		}
		a := aptFile{name: f[1]}
		if filepath.Base(a.name) != a.name || !strings.HasSuffix(a.name, ".deb") {
			return aptFile{}, fmt.Errorf("apt-get gave an unexpected file name: %q", a.name)
		}
		if len(f) > 3 {
			if sum, ok := strings.CutPrefix(f[3], "SHA256:"); ok {
				a.sha256 = strings.ToLower(sum)
			}
		}
		return a, nil
	}
	return aptFile{}, errors.New("apt-get --print-uris download printed no file")
}

// fetch returns the path of a package's file in the cache directory, downloaded if
// it is not there with the right sum. Concurrent callers, in this process or
// others, take turns.
func (a *apt) fetch(ctx context.Context, name string) (path string, err error) {
	defer explain(&err, "guest: download %s", name)
	out, err := a.run(ctx, "", "apt-get", "--print-uris", "download", name)
	if err != nil {
		return "", err
	}
	want, err := parsePrintURIs(out)
	if err != nil {
		return "", err
	}
	lock, err := flock.MakeDir(ctx, a.cache)
	if err != nil {
		return "", fmt.Errorf("lock the cache %s: %w", a.cache, err)
	}
	defer lock.Close()

	path = filepath.Join(a.cache, want.name)
	switch err := checkSum(path, want.sha256); {
	case err == nil:
		return path, nil
	case !errors.Is(err, os.ErrNotExist):
		a.logf("%v: downloading it again", err)
	}
	a.logf("downloading %s", want.name)
	tmp, err := os.MkdirTemp(a.cache, "download-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	// As root apt-get would drop to a user who cannot write here, and warn.
	if _, err := a.run(ctx, tmp, "apt-get", "-o", "APT::Sandbox::User=root", "download", name); err != nil {
		return "", err
	}
	got := filepath.Join(tmp, want.name)
	if err := checkSum(got, want.sha256); err != nil {
		return "", err
	}
	return path, os.Rename(got, path)
}

// checkSum reports whether the file is there and, if sum is known, has it.
func checkSum(path, sum string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if sum == "" {
		return nil
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != sum {
		return fmt.Errorf("%s has the SHA-256 sum %s, not %s", path, got, sum)
	}
	return nil
}
