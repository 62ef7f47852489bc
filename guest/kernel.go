package guest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// kernel is a kernel image and its modules, on the host.
type kernel struct {
	vmlinuz string
	modules *moduleTree
}

// locateKernel finds the kernel that the options ask for and unpacks it if need
// be. done removes what was unpacked.
func (o *Options) locateKernel(ctx context.Context) (k *kernel, done func(), err error) {
	nothing := func() {}
	if o.Vmlinuz != "" || o.Modules != "" {
		if o.Package != "" || o.Deb != "" {
			return nil, nothing, fmt.Errorf("guest: a kernel by path and a kernel package are both given; give one of them")
		}
		if o.Vmlinuz == "" || o.Modules == "" {
			return nil, nothing, fmt.Errorf("guest: a kernel by path needs both its image and its modules directory (lib/modules/RELEASE)")
		}
		if _, err := os.Stat(o.Vmlinuz); err != nil {
			return nil, nothing, fmt.Errorf("guest: kernel: %w", err)
		}
		t, err := openModuleTree(o.Modules)
		if err != nil {
			return nil, nothing, err
		}
		return &kernel{o.Vmlinuz, t}, nothing, nil
	}

	debs := []string{o.Deb}
	switch {
	case o.Deb != "" && o.Package != "":
		return nil, nothing, fmt.Errorf("guest: a package name (%s) and a package file (%s) are both given; give one of them", o.Package, o.Deb)
	case o.Deb == "":
		if debs, err = o.fetchKernel(ctx); err != nil {
			return nil, nothing, err
		}
	default:
		if _, err := os.Stat(o.Deb); err != nil {
			return nil, nothing, fmt.Errorf("guest: kernel package: %w", err)
		}
	}
	root, done, err := o.unpack(ctx, debs...)
	if err != nil {
		return nil, nothing, err
	}
	if k, err = findKernel(root); err != nil {
		done()
		return nil, nothing, fmt.Errorf("guest: %s: %w", debs[0], err)
	}
	return k, done, nil
}

// fetchKernel downloads the packages of the kernel that the options stand for.
func (o *Options) fetchKernel(ctx context.Context) (debs []string, err error) {
	a, err := o.apt(ctx)
	if err != nil {
		return nil, err
	}
	_, parts, err := a.resolve(ctx, o.kernelPackage())
	if err != nil {
		return nil, err
	}
	for _, name := range parts {
		deb, err := a.fetch(ctx, name)
		if err != nil {
			return nil, err
		}
		debs = append(debs, deb)
	}
	return debs, nil
}

// ResolveKernel returns the kernel package that the options stand for today.
func (o *Options) ResolveKernel(ctx context.Context) (string, error) {
	a, err := o.apt(ctx)
	if err != nil {
		return "", err
	}
	image, _, err := a.resolve(ctx, o.kernelPackage())
	return image, err
}

// kernelPackage is the package that is asked for, or the default. Debian's cloud
// kernel of arm64 has no driver of the power button that a machine without ACPI
// has (gpio_keys).
func (o *Options) kernelPackage() string {
	switch {
	case o.Package != "":
		return o.Package
	case o.arch() == "arm64":
		return "linux-image-arm64"
	}
	return "linux-image-cloud-" + o.arch()
}

// unpack unpacks package files into a directory, which done removes.
func (o *Options) unpack(ctx context.Context, debs ...string) (root string, done func(), err error) {
	cache, err := o.cacheDir()
	if err != nil {
		return "", nil, err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", nil, fmt.Errorf("guest: cache: %w", err)
	}
	if root, err = os.MkdirTemp(cache, "unpack-"); err != nil {
		return "", nil, fmt.Errorf("guest: cache: %w", err)
	}
	for _, deb := range debs {
		o.logf("unpacking %s", filepath.Base(deb))
		// dpkg-deb takes an argument with a leading dash for an option.
		if deb, err = filepath.Abs(deb); err == nil {
			_, err = runTool(ctx, "", "dpkg-deb", "--extract", deb, root)
		}
		if err != nil {
			os.RemoveAll(root)
			return "", nil, fmt.Errorf("guest: unpack %s: %w", deb, err)
		}
	}
	return root, func() { os.RemoveAll(root) }, nil
}

// findKernel finds the one kernel in unpacked packages. Its image is in /boot, or,
// from Debian 14 on, beside its modules.
func findKernel(root string) (*kernel, error) {
	var found []*kernel
	dirs, err := filepath.Glob(filepath.Join(root, "lib/modules/*"))
	usr, _ := filepath.Glob(filepath.Join(root, "usr/lib/modules/*")) // fails where the other one does
	if err != nil {
		return nil, err
	}
	for _, dir := range append(dirs, usr...) {
		boot := filepath.Join(root, "boot")
		for _, image := range []string{boot + "/vmlinuz-" + filepath.Base(dir), boot + "/vmlinux-" + filepath.Base(dir), dir + "/vmlinuz"} {
			if _, err := os.Stat(image); err != nil {
				continue
			}
			t, err := openModuleTree(dir)
			if err != nil {
				return nil, err
			}
			found = append(found, &kernel{image, t})
		}
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("has %d kernels with modules instead of one: not a kernel package, or one of the several that hold a kernel from Debian 14 on (give the name of the package instead of its file)", len(found))
	}
	return found[0], nil
}

// cacheDir returns the directory for downloads and for what is unpacked meanwhile.
func (o *Options) cacheDir() (string, error) {
	if o.Cache != "" {
		return filepath.Abs(o.Cache)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("guest: no cache directory: %w: name one", err)
	}
	return filepath.Join(dir, "vmfs", "kernels"), nil
}

// arch returns the Debian name of the guest's architecture, which for the two
// that vmfs knows is also Go's.
func (o *Options) arch() string {
	if o.Arch != "" {
		return o.Arch
	}
	return runtime.GOARCH
}

func (o *Options) logf(format string, args ...any) {
	if o.Logf != nil {
		o.Logf(format, args...)
	}
}
