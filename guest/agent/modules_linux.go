package agent

import (
	"bufio"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// modulesList is guest.ModulesPath; package guest holds a builder that the agent
// has no use for, so the agent does not import it. A test keeps them equal.
const modulesList = "/etc/vmfs/modules"

// loadModules loads the image's modules in the order of the list.
func (a *agent) loadModules() {
	f, err := os.Open(modulesList)
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	if err != nil {
		a.con.printf("vmfs guest: modules: %v", err)
		return
	}
	defer f.Close()
	release := kernelRelease()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		path := sc.Text()
		if built := moduleRelease(path); built != release {
			a.con.printf("vmfs guest: the modules are for linux %s and this is %s: kernel and initrd are not of one build", built, release)
			return
		}
		switch err := loadModule(path); {
		case err == nil, errors.Is(err, unix.EEXIST):
		case errors.Is(err, unix.ENODEV):
			// The module's own word that this machine has no use for it.
		default:
			a.con.printf("vmfs guest: module %s: %v", filepath.Base(path), err)
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
