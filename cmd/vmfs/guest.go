package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"vmfs/guest"
	"vmfs/guest/agent"
)

// guestMain is the guest's init, if this process is one, and otherwise returns
// false. It comes before anything reads the arguments, which are words of the
// kernel's command line in that case.
func guestMain() bool {
	if !guest.IsInit(os.Args, os.Getpid()) {
		return false
	}
	agent.Main()
	return true
}

func newGuest() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "guest",
		Short: "Build the demo guest",
		Long: `Build a small Linux guest to try vmfs with. Its init is this program, which has a
shell on the console and answers vmfs exec.`,
		Example: `  vmfs guest build -o build/guest`,
		Args:    cobra.NoArgs,
		Run:     func(cmd *cobra.Command, _ []string) { cmd.Help() },
	}
	cmd.AddCommand(newGuestBuild(), newGuestInit())
	return cmd
}

func newGuestBuild() *cobra.Command {
	o := guest.Options{}
	quiet := false
	cmd := &cobra.Command{
		Use:   "build -o DIR [--kernel-package NAME | --kernel-deb FILE | --kernel FILE --modules DIR]",
		Short: "Build a small Linux guest: DIR/vmlinuz and DIR/initrd",
		Long: `Build a small Linux guest: a kernel, DIR/vmlinuz, and an initramfs, DIR/initrd,
with a static busybox, the modules a VM needs, and this program as its init.

The kernel is Debian's (the cloud kernel on amd64), downloaded with apt-get and
kept in the user's cache, unless another package, a package's file, or a kernel
with its modules is named. Root is not needed. The files printed at the end are
what the config keys kernel= and initrd= want.

With --arch the guest is one of another architecture. --agent then names this
program built for that; the rest is downloaded, with package lists that are kept
in the cache too, and nothing of this machine's is changed.`,
		Example: `  vmfs guest build -o build/guest
  vmfs guest build -o arm --arch arm64 --agent build/cross/vmfs-linux-arm64
  vmfs guest build -o g612 --kernel-package linux-image-6.12-amd64
  vmfs guest build -o own --kernel bzImage --modules out/lib/modules/6.18.0`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Agent == "" {
				exe, err := os.Executable()
				if err != nil {
					return fmt.Errorf("guest build: find this program for /init: %w (--agent names one)", err)
				}
				o.Agent = exe
			}
			if !quiet {
				o.Logf = func(format string, a ...any) { fmt.Fprintf(cmd.ErrOrStderr(), "vmfs: "+format+"\n", a...) }
			}
			im, err := guest.Build(cmd.Context(), o)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "kernel=%s\ninitrd=%s\n", im.Kernel, im.Initrd)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.Dir, "output", "o", "", "`directory` for vmlinuz and initrd, made if missing")
	f.StringVar(&o.Arch, "arch", "", "the guest's `architecture` as Debian calls it (amd64, arm64); default the host's")
	f.StringVar(&o.Package, "kernel-package", "", "Debian `package` of the kernel; a meta package is followed")
	f.StringVar(&o.Deb, "kernel-deb", "", "Debian package `file` of the kernel")
	f.StringVar(&o.Vmlinuz, "kernel", "", "kernel image `file`")
	f.StringVar(&o.Modules, "modules", "", "the `directory` lib/modules/RELEASE of --kernel")
	f.StringVar(&o.Agent, "agent", "", "static `program` that becomes /init (default this one)")
	f.StringVar(&o.Busybox, "busybox", "", "static busybox `program`, or none (default /bin/busybox, or Debian's with --arch)")
	f.StringSliceVar(&o.ExtraModules, "module", nil, "kernel `module` to load besides the usual ones; repeat for more")
	f.StringVar(&o.Cache, "cache", "", "`directory` that keeps downloads (default vmfs/kernels in the user's cache)")
	f.BoolVarP(&quiet, "quiet", "q", false, "do not tell of the steps")
	cmd.MarkFlagRequired("output")
	cmd.MarkFlagDirname("output")
	cmd.MarkFlagDirname("modules")
	cmd.MarkFlagDirname("cache")
	cmd.MarkFlagsRequiredTogether("kernel", "modules")
	cmd.MarkFlagsMutuallyExclusive("kernel", "kernel-deb", "kernel-package")
	return cmd
}

func newGuestInit() *cobra.Command {
	return &cobra.Command{
		Use:   "init",
		Short: "Be the init of the guest (started by its kernel)",
		Long: `Be the init of a guest made by vmfs guest build: mount what Linux needs, load the
modules, answer the power button, and run a shell on the console. The guest's
kernel starts it; started anywhere else it does nothing but say so.`,
		Example: `  vmfs guest init`,
		Args:    cobra.NoArgs,
		Run:     func(*cobra.Command, []string) { agent.Main() },
	}
}
