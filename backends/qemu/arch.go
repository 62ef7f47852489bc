package qemu

import (
	"fmt"
	"path/filepath"
	"runtime"
	"strings"

	"vmfs/backends/hypervisor"
)

// An arch is how a VM of one architecture is made.
type arch struct {
	name    string // QEMU's: what the program's name ends in
	goarch  string // Go's
	machine string // the default machine type
	console string // the kernel's name of the first serial port
	panicAt string // the device by which a guest says that it crashed
	dies    bool   // whether the machine's CPUs can have dies
	ports   bool   // whether it has I/O ports
	// firmware is where distributions have the firmware that the machine cannot
	// boot a disk without; nil where QEMU brings its own.
	firmware []string
	// vmx are the words of /proc/cpuinfo of which a host that can run KVM guests
	// has one; nil where /dev/kvm says it all.
	vmx []string
}

var archs = []*arch{
	{
		name: "x86_64", goarch: "amd64", machine: "q35", console: "ttyS0", panicAt: "pvpanic", dies: true, ports: true,
		vmx: []string{"vmx", "svm"},
	},
	{
		name: "aarch64", goarch: "arm64", machine: "virt", console: "ttyAMA0", panicAt: "pvpanic-pci",
		firmware: []string{
			"/usr/share/qemu-efi-aarch64/QEMU_EFI.fd", // Debian, Ubuntu
			"/usr/share/edk2/aarch64/QEMU_EFI.fd",     // Fedora, Arch
			"/usr/share/AAVMF/AAVMF_CODE.fd",
			"/opt/homebrew/share/qemu/edk2-aarch64-code.fd",
		},
	},
}

const programPrefix = "qemu-system-"

// hostArch is the architecture of this host.
func hostArch() (*arch, error) {
	for _, a := range archs {
		if a.goarch == runtime.GOARCH {
			return a, nil
		}
	}
	return nil, fmt.Errorf("QEMU on a host of architecture %s: %w", runtime.GOARCH, hypervisor.ErrNotSupported)
}

// archOf returns the architecture of the VMs that a program runs: the one in its
// name, else the host's.
func archOf(program string) (*arch, error) {
	for _, a := range archs {
		if strings.HasPrefix(filepath.Base(program), programPrefix+a.name) {
			return a, nil
		}
	}
	if name, ok := strings.CutPrefix(filepath.Base(program), programPrefix); ok {
		return nil, fmt.Errorf("%s: VMs of architecture %s: %w", program, name, hypervisor.ErrNotSupported)
	}
	return hostArch()
}
