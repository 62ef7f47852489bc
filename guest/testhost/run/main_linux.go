// Run runs a program on a test host (package testhost), and ends with its exit status,
// or with 255 where the host was at fault.
//
//	run [-c LINE | PROGRAM ARG…]     without either: a shell
//
// It is given the environment and the directory of this process.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/term"

	"vmfs/guest"
	"vmfs/guest/exec"
	"vmfs/guest/imagecache"
	"vmfs/guest/testhost"
)

// exitNoHost is the exit status where the host is at fault.
const exitNoHost = 255

func main() {
	line := flag.String("c", "", "a `LINE` for the shell")
	memory := flag.String("memory", "", "the host's memory, as of QEMU's -m")
	out := flag.String("out", "build/testhost/out", "the `directory` that is /out there")
	log := flag.String("log", "build/testhost/console.log", "the `file` for the host's console")
	guests := flag.Bool("guests", false, "build guests for tests: $VMFS_GUEST_IMAGE, $VMFS_GUEST_IMAGE_FULL")
	quiet := flag.Bool("q", false, "say nothing of what is built")
	flag.Parse()
	o := testhost.Options{Memory: *memory, Out: *out, Log: *log}
	if !*quiet {
		o.Logf = func(format string, args ...any) { fmt.Fprintf(os.Stderr, "testhost: "+format+"\n", args...) }
	}
	args := flag.Args()
	switch {
	case *line != "":
		args = append([]string{"/bin/sh", "-c", *line}, args...)
	case len(args) == 0:
		args = []string{"/bin/bash"}
	}
	status, err := run(o, args, *guests)
	if err != nil {
		fmt.Fprintf(os.Stderr, "testhost: %v\n", err)
	}
	os.Exit(status)
}

func run(o testhost.Options, args []string, guests bool) (status int, err error) {
	dir, err := os.Getwd()
	if err != nil {
		return exitNoHost, err
	}
	tty := len(args) == 1 && term.IsTerminal(int(os.Stdin.Fd()))
	if guests {
		if err := buildGuests(o.Logf); err != nil {
			return exitNoHost, err
		}
	}
	o.Keep = keep(dir, args)
	c := exec.Command{Args: args, Env: environment(), Dir: dir, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}

	for attempt := 1; ; attempt++ {
		status, err := runOnce(o, c, tty)
		var start *exec.StartError
		switch {
		case err == nil:
			return status, nil
		case errors.As(err, &start):
			return start.Status, err
		case errors.Is(err, context.Canceled):
			return 128 + int(syscall.SIGINT), errors.New("interrupted")
		case attempt > 1 || tty || !errors.Is(err, testhost.ErrStill) && !errors.Is(err, testhost.ErrBoot):
			return exitNoHost, err
		}
		fmt.Fprintf(os.Stderr, "testhost: %v\ntesthost: this says nothing of the program: once more from its beginning\n", err)
	}
}

// runOnce ends the host on a signal that comes while there is no program to pass it to.
func runOnce(o testhost.Options, c exec.Command, tty bool) (int, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var started atomic.Bool
	o.Started = func() { started.Store(true) }
	got := make(chan os.Signal, 1)
	signal.Notify(got, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(got)
	go func() {
		for {
			select {
			case <-got:
				if !started.Load() {
					cancel()
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return testhost.Run(ctx, o, c, tty)
}

// environment is this process's, without what is of this machine alone.
func environment() (env []string) {
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		switch name {
		case "TMPDIR", "XDG_RUNTIME_DIR", "MAKEFLAGS", "MAKELEVEL", "MFLAGS":
		default:
			env = append(env, kv)
		}
	}
	return append(env, "VMFS_TESTHOST=1")
}

// keep are the paths that have to be there although they are where the host has a new
// file system: the work tree, the program, and what variables of ours name.
func keep(dir string, args []string) (paths []string) {
	candidates := []string{dir}
	if root, err := imagecache.Root(context.Background()); err == nil {
		candidates = append(candidates, root)
	}
	if filepath.IsAbs(args[0]) {
		candidates = append(candidates, args[0])
	}
	for _, kv := range os.Environ() {
		name, value, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(name, "VMFS_") || name == "GOCACHE" || name == "GOMODCACHE" || name == "GOROOT" {
			candidates = append(candidates, value)
		}
	}
	for _, path := range candidates {
		if !strings.HasPrefix(path, "/tmp/") && !strings.HasPrefix(path, "/run/") {
			continue
		}
		if _, err := os.Stat(path); err == nil && !within(path, paths) {
			paths = append(paths, path)
		}
	}
	return paths
}

func within(path string, dirs []string) bool {
	for _, dir := range dirs {
		if path == dir || strings.HasPrefix(path, dir+"/") {
			return true
		}
	}
	return false
}

// buildGuests builds the guests that tests boot there, where building takes long.
func buildGuests(logf func(string, ...any)) error {
	if logf == nil {
		logf = func(string, ...any) {}
	}
	for name, o := range map[string]guest.Options{
		"VMFS_GUEST_IMAGE": {},
		// With a driver of the device that is there to be passed on.
		"VMFS_GUEST_IMAGE_FULL": {Package: testhost.Kernel, ExtraModules: []string{"e1000e"}},
	} {
		image, err := imagecache.Build(context.Background(), imagecache.Agent, o, logf)
		if err != nil {
			return err
		}
		if err := os.Setenv(name, filepath.Dir(image.Kernel)); err != nil {
			return err
		}
	}
	return nil
}
