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

	deb := o.Deb
	switch {
	case deb != "" && o.Package != "":
		return nil, nothing, fmt.Errorf("guest: a package name (%s) and a package file (%s) are both given; give one of them", o.Package, deb)
	case deb == "":
		a, err := o.apt(ctx)
		if err != nil {
			return nil, nothing, err
		}
		name, err := a.resolve(ctx, o.kernelPackage())
		if err != nil {
			return nil, nothing, err
		}
		if deb, err = a.fetch(ctx, name); err != nil {
			return nil, nothing, err
		}
	default:
		if _, err := os.Stat(deb); err != nil {
			return nil, nothing, fmt.Errorf("guest: kernel package: %w", err)
		}
	}
	root, done, err := o.unpack(ctx, deb)
	if err != nil {
		return nil, nothing, err
	}
	if k, err = findKernel(root); err != nil {
		done()
		return nil, nothing, fmt.Errorf("guest: %s: %w", deb, err)
	}
	return k, done, nil
}

// ResolveKernel returns the kernel package that the options stand for today.
func (o *Options) ResolveKernel(ctx context.Context) (string, error) {
	a, err := o.apt(ctx)
	if err != nil {
		return "", err
	}
	return a.resolve(ctx, o.kernelPackage())
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

// unpack unpacks a package file into a directory, which done removes.
func (o *Options) unpack(ctx context.Context, deb string) (root string, done func(), err error) {
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
	o.logf("unpacking %s", filepath.Base(deb))
	if err := unpackDeb(ctx, deb, root); err != nil {
		os.RemoveAll(root)
		return "", nil, err
	}
	return root, func() { os.RemoveAll(root) }, nil
}

// findKernel finds the one kernel in an unpacked package.
func findKernel(root string) (*kernel, error) {
	images, err := filepath.Glob(filepath.Join(root, "boot", "vmlinu[xz]-*"))
	if err != nil {
		return nil, err
	}
	if len(images) != 1 {
		return nil, fmt.Errorf("holds %d files boot/vmlinuz-*, not one: not a kernel package (a meta package is followed by its name only)", len(images))
	}
	release := filepath.Base(images[0])[len("vmlinuz-"):]
	for _, lib := range []string{"lib", "usr/lib"} {
		dir := filepath.Join(root, lib, "modules", release)
		if _, err := os.Stat(dir); err != nil {
			continue
		}
		t, err := openModuleTree(dir)
		if err != nil {
			return nil, err
		}
		return &kernel{images[0], t}, nil
	}
	return nil, fmt.Errorf("holds no lib/modules/%s", release)
}

// cacheDir returns the directory for downloads and for what is unpacked meanwhile.
func (o *Options) cacheDir() (string, error) {
	if o.Cache != "" {
		return filepath.Abs(o.Cache)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("guest: no cache directory: %w; name one", err)
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
