package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"

	"vmfs/guest/internal/newc"
)

// Paths in the guest that Build writes and the agent reads.
const (
	ModulesPath = "/etc/vmfs/modules" // the modules to load, one path a line, in order
	ScriptPath  = "/etc/vmfs/script"  // if there, run after the boot instead of the console's shell
)

// Options says what to build. The zero value with Dir and Agent set builds the
// default guest.
type Options struct {
	Dir  string // where vmlinuz and initrd go; made if missing
	Arch string // Debian's name of the guest's architecture; "" is this machine's

	// The kernel: one of these three, or none for Debian's of today (see
	// kernelPackage).
	Package string // a Debian package, meta packages are followed
	Deb     string // a package file
	Vmlinuz string // a kernel image; Modules is then its lib/modules/RELEASE
	Modules string

	Agent   string // the static program that becomes /init
	Busybox string // a static busybox; NoBusybox none; "" see findBusybox

	// ExtraModules are loaded at boot after the usual ones. It is an error if
	// the kernel lacks one.
	ExtraModules []string
	Files        []File // added last; one may replace any file but /init
	Script       []byte // becomes ScriptPath

	// Cache is the directory that keeps downloads; "" is vmfs/kernels in the
	// user's cache directory.
	Cache string
	// Logf is told of steps that take time; nil drops them.
	Logf func(format string, args ...any) `json:"-"`
}

// File is a file to add to the image.
type File struct {
	Path    string      // in the guest
	Source  string      // a file of the host, or
	Content []byte      // the content itself, or
	Link    string      // the target of a symbolic link
	Mode    fs.FileMode // permissions; 0 is the source's, or 0644
}

// Image is a guest that Build made.
type Image struct {
	Kernel  string   // absolute path of DIR/vmlinuz
	Initrd  string   // of DIR/initrd
	Release string   // of the kernel
	Modules []string // loaded at boot, in order
}

// neededModules must be there, in one form or the other. usualModules are loaded
// where the kernel has them.
var (
	neededModules = []string{"virtio_pci"}
	usualModules  = []string{
		"virtio_mmio",     // microvm and others without PCI
		"button", "evdev", // the ACPI power button, and how it reaches user space
		"gpio_pl061", "gpio_keys", // the same on arm64 without ACPI
		"virtio_balloon", "virtio_mem",
		"virtio_rng", "virtio_console", "virtio_blk", "virtio_net",
		"vsock", "vmw_vsock_virtio_transport",
		"pvpanic", "pvpanic_pci", "pvpanic_mmio", // tells the hypervisor of a panic
	}
)

// Build makes DIR/vmlinuz and DIR/initrd. Both are moved into place at the end,
// each atomically; until then earlier ones stay as they are.
func Build(ctx context.Context, o Options) (*Image, error) {
	if o.Dir == "" {
		return nil, errors.New("guest: no directory for the image given")
	}
	dir, err := filepath.Abs(o.Dir) // a VM's configuration takes no relative paths
	if err != nil {
		return nil, fmt.Errorf("guest: %w", err)
	}
	o.Dir = dir
	if o.Agent == "" {
		return nil, errors.New("guest: no agent program given for /init")
	}
	if err := checkStatic(o.Agent, o.arch()); err != nil {
		return nil, fmt.Errorf("guest: agent: %w; build it with `CGO_ENABLED=0 GOOS=linux GOARCH=%s go build`", err, o.arch())
	}
	busybox, doneBusybox, err := o.findBusybox(ctx)
	if err != nil {
		return nil, err
	}
	defer doneBusybox()
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("guest: %w", err)
	}

	k, done, err := o.locateKernel(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	mods, err := o.selectModules(k.modules)
	if err != nil {
		return nil, err
	}
	im, err := o.assemble(k.modules.release, mods, busybox)
	if err != nil {
		return nil, err
	}

	res := &Image{
		Kernel:  filepath.Join(o.Dir, "vmlinuz"),
		Initrd:  filepath.Join(o.Dir, "initrd"),
		Release: k.modules.release,
	}
	for _, m := range mods {
		res.Modules = append(res.Modules, m.name)
	}
	o.logf("writing %s and %s (linux %s, %d modules)", res.Kernel, res.Initrd, res.Release, len(mods))
	if err := o.place(ctx, res, k.vmlinuz, im); err != nil {
		return nil, fmt.Errorf("guest: %w", err)
	}
	return res, nil
}

// place writes both files beside their targets and then renames both.
func (o *Options) place(ctx context.Context, res *Image, vmlinuz string, im image) error {
	vk, err := renameio.NewPendingFile(res.Kernel, renameio.WithPermissions(0o644))
	if err != nil {
		return err
	}
	defer vk.Cleanup()
	src, err := os.Open(vmlinuz)
	if err != nil {
		return err
	}
	defer src.Close()
	if _, err := io.Copy(ctxWriter{ctx, vk}, src); err != nil {
		return fmt.Errorf("copy %s: %w", vmlinuz, err)
	}
	ir, err := renameio.NewPendingFile(res.Initrd, renameio.WithPermissions(0o644))
	if err != nil {
		return err
	}
	defer ir.Cleanup()
	if err := im.writeTo(ctxWriter{ctx, ir}); err != nil {
		return fmt.Errorf("write %s: %w", res.Initrd, err)
	}
	if err := vk.CloseAtomicallyReplace(); err != nil {
		return err
	}
	return ir.CloseAtomicallyReplace()
}

// selectModules resolves what to load.
func (o *Options) selectModules(t *moduleTree) ([]module, error) {
	names := append([]string{}, neededModules...)
	for _, name := range usualModules {
		if t.has(name) {
			names = append(names, name)
		}
	}
	return t.closure(append(names, o.ExtraModules...))
}

// assemble lays out the initramfs.
func (o *Options) assemble(release string, mods []module, busybox string) (image, error) {
	im := image{}
	for _, dir := range []string{"dev", "etc", "mnt", "proc", "root", "run", "sys", "bin", "sbin", "usr/bin", "usr/sbin"} {
		im.dir(dir, 0o755)
	}
	im.dir("tmp", 0o1777)
	// The kernel opens the console for init before init can mount /dev, and Go's
	// runtime wants /dev/null where the kernel could not.
	im.char("dev/console", 0o600, 5, 1)
	im.char("dev/null", 0o666, 1, 3)

	if err := im.hostFile("init", o.Agent, 0o755); err != nil {
		return nil, fmt.Errorf("guest: agent: %w", err)
	}
	im.symlink("bin/vsock", "../init") // the agent is that tool too
	im.content("etc/passwd", newc.TypeRegular|0o644, []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"))
	im.content("etc/group", newc.TypeRegular|0o644, []byte("root:x:0:\nnogroup:x:65534:\n"))
	im.content("etc/hosts", newc.TypeRegular|0o644, []byte("127.0.0.1 localhost\n::1 localhost\n"))

	var list bytes.Buffer
	for _, m := range mods {
		p := "lib/modules/" + release + "/" + filepath.ToSlash(m.path)
		im.content(p, newc.TypeRegular|0o644, m.data)
		fmt.Fprintf(&list, "/%s\n", p)
	}
	im.content(strings.TrimPrefix(ModulesPath, "/"), newc.TypeRegular|0o644, list.Bytes())

	if busybox != "" {
		if err := im.hostFile("bin/busybox", busybox, 0o755); err != nil {
			return nil, fmt.Errorf("guest: busybox: %w", err)
		}
		// The agent has busybox make the links of its other applets at boot:
		// only the program itself knows which it has, and it may not run here.
		im.symlink("bin/sh", "busybox")
	}
	if len(o.Script) > 0 {
		im.content(strings.TrimPrefix(ScriptPath, "/"), newc.TypeRegular|0o755, o.Script)
	}
	for _, f := range o.Files {
		if err := im.add(f); err != nil {
			return nil, fmt.Errorf("guest: extra file: %w", err)
		}
	}
	return im, nil
}

// add adds a user's file.
func (im image) add(f File) error {
	name, err := cleanGuestPath(f.Path)
	if err != nil {
		return err
	}
	if name == "init" {
		return errors.New("/init is the agent; a script to run after the boot is Options.Script")
	}
	if old, ok := im[name]; ok && old.mode&0o170000 == newc.TypeDir {
		return fmt.Errorf("/%s is a directory of the image", name)
	}
	for i := range len(name) {
		if name[i] != '/' {
			continue
		}
		if old, ok := im[name[:i]]; ok && old.mode&0o170000 != newc.TypeDir {
			return fmt.Errorf("/%s: /%s is not a directory", name, name[:i])
		}
	}
	perm := uint32(f.Mode.Perm())
	switch {
	case f.Source != "" && (f.Content != nil || f.Link != ""), f.Content != nil && f.Link != "":
		return fmt.Errorf("/%s has more than one of source, content and link", name)
	case f.Source != "":
		return im.hostFile(name, f.Source, perm)
	case f.Link != "":
		im.symlink(name, f.Link)
	default:
		if perm == 0 {
			perm = 0o644
		}
		im.content(name, newc.TypeRegular|perm, f.Content)
	}
	return nil
}

// ctxWriter ends a copy when its context does.
type ctxWriter struct {
	ctx context.Context
	w   io.Writer
}

func (w ctxWriter) Write(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.w.Write(p)
}
