// Package kmod loads the modules of an image that guest.Build made. It imports
// golang.org/x/sys alone.
package kmod

import (
	"bufio"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// List is guest.ModulesPath; package guest holds a builder that an init has no use
// for, so this does not import it. A test keeps them equal.
const List = "/etc/vmfs/modules"

// Load loads the image's modules in the order of the list, and reports those that
// cannot be loaded. release is that of the running kernel.
func Load(release string, report func(format string, args ...any)) {
	f, err := os.Open(List)
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	if err != nil {
		report("modules: %v", err)
		return
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		path := sc.Text()
		if built := moduleRelease(path); built != release {
			report("the modules are for linux %s, but this is %s: use a kernel and an initrd of the same build", built, release)
			return
		}
		switch err := loadModule(path); {
		case err == nil, errors.Is(err, unix.EEXIST):
		case errors.Is(err, unix.ENODEV):
			// The module's own word that this machine has no use for it.
		default:
			report("module %s: %v", filepath.Base(path), err)
		}
	}
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FinitModule(int(f.Fd()), "", 0)
}

// moduleRelease returns RELEASE of /lib/modules/RELEASE/....
func moduleRelease(path string) string {
	rest, _ := strings.CutPrefix(path, "/lib/modules/")
	release, _, _ := strings.Cut(rest, "/")
	return release
}
