package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// NoBusybox as Options.Busybox leaves busybox out. The console then has the
// agent's own small prompt.
const NoBusybox = "none"

// Where Debian's busybox-static, which is also the package's name, puts the program
// on a machine whose /bin is /usr/bin.
const (
	busyboxPackage = "busybox-static"
	defaultBusybox = "/bin/busybox"
)

// findBusybox returns the busybox to include, or "" for none. Where none is
// named it is this machine's, if that is static, and for a guest of another
// architecture Debian's, downloaded. Without either the image has none. done
// removes what was unpacked.
func (o *Options) findBusybox(ctx context.Context) (path string, done func(), err error) {
	nothing := func() {}
	switch {
	case o.Busybox == NoBusybox:
		return "", nothing, nil
	case o.Busybox != "":
		if err := checkStatic(o.Busybox, o.arch()); err != nil {
			return "", nothing, fmt.Errorf("guest: busybox: %w (Debian's static one is in the package %s)", err, busyboxPackage)
		}
		return o.Busybox, nothing, nil
	case o.foreign():
		path, done, err = o.downloadBusybox(ctx)
		if errors.Is(err, exec.ErrNotFound) {
			o.logf("no busybox in the image: %v", err)
			return "", nothing, nil
		}
		if err != nil {
			return "", nothing, fmt.Errorf("%w (an image without busybox does not need this download)", err)
		}
		return path, done, nil
	}
	if err := checkStatic(defaultBusybox, o.arch()); err != nil {
		o.logf("no busybox in the image: %v (on Debian run `apt-get install %s`)", err, busyboxPackage)
		return "", nothing, nil
	}
	return defaultBusybox, nothing, nil
}

// downloadBusybox gets Debian's for the guest's architecture.
func (o *Options) downloadBusybox(ctx context.Context) (path string, done func(), err error) {
	a, err := o.apt(ctx)
	if err != nil {
		return "", nil, err
	}
	deb, err := a.fetch(ctx, busyboxPackage)
	if err != nil {
		return "", nil, err
	}
	root, done, err := o.unpack(ctx, deb)
	if err != nil {
		return "", nil, err
	}
	path = filepath.Join(root, defaultBusybox)
	if _, err := os.Stat(path); err != nil { // from Debian 13 on it is in /usr
		path = filepath.Join(root, "usr", defaultBusybox)
	}
	if err := checkStatic(path, o.arch()); err != nil {
		done()
		return "", nil, fmt.Errorf("guest: busybox of %s: %w", filepath.Base(deb), err)
	}
	return path, done, nil
}
