// Package guest builds the small Linux guest that vmfs is shown and tested
// with: a Debian kernel and an initramfs that holds the vmfs agent as its init,
// the kernel modules that a virtual machine needs, and a busybox.
//
// The work is done by [Build]. It needs no root and no tool but apt-get,
// apt-cache and dpkg-deb, and not even those where a kernel is given by path.
// For the same inputs it writes the same bytes. For a guest of another architecture
// apt-get works on package lists of its own, in the cache, and changes nothing of the
// machine's; the agent has to be built for that architecture.
//
// The initramfs is written by internal/newc, some hundred lines, and not by a
// library: a writer that never reads an archive, never looks at the host's
// inodes and takes its content from memory is smaller than the conversion to a
// library's record type would be.
//
// Module dependencies come from the modules themselves (the "depends" lines of
// their .modinfo sections) and not from modules.dep: Debian's kernel packages
// carry none, depmod writes it when a package is installed.
//
// The agent is package guest/agent. The program that is put into the image as
// /init is either vmfs itself, whose main asks [IsInit] first, or
// guest/internal/initmain, the agent alone, which is a quarter of the size and
// what guest/guesttest uses.
//
// The package imports the standard library, renameio and xz; of vmfs only
// guest/internal.
package guest
