package qemu

import (
	"fmt"
	"os"
	"runtime"
	"strings"

	"vmfs/backends/hostpci"
	"vmfs/backends/hypervisor"
)

// The values of qemu.accel.
const (
	accelAuto = "auto" // kvm where the host can, else tcg
	accelKVM  = "kvm"
	accelTCG  = "tcg" // emulation
)

// A host is what this machine has, as far as it decides how VMs are made.
type host struct {
	kvm       func() error // opens /dev/kvm for a moment
	cpuinfo   func() string
	exists    func(path string) bool
	vhostNet  func() bool           // whether /dev/vhost-net opens
	iommuUsed func() bool           // whether the host has IOMMU groups, and vfio
	takeCID   func(cid int64) error // takes a vsock CID of the kernel's for a moment
}

// thisHost looks at the machine itself.
var thisHost = host{
	kvm:       func() error { return tryOpen("/dev/kvm") },
	cpuinfo:   func() string { b, _ := os.ReadFile("/proc/cpuinfo"); return string(b) },
	exists:    func(path string) bool { _, err := os.Stat(path); return err == nil },
	vhostNet:  func() bool { return tryOpen("/dev/vhost-net") == nil },
	iommuUsed: hostpci.Usable,
	takeCID:   takeCID,
}

func tryOpen(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

// chooseAccel decides what runs the guest's code. That /dev/kvm opens is not
// enough for auto: within other VMs it may, and yet run no guest, unless the CPU
// shows that it virtualizes.
func (h host) chooseAccel(want string, a *arch) (string, error) {
	if want == accelTCG {
		return accelTCG, nil
	}
	why := func() error {
		if a.goarch != runtime.GOARCH {
			return fmt.Errorf("the guest's architecture %s is not the host's", a.name)
		}
		return h.kvm()
	}()
	if want == accelKVM {
		if why != nil {
			return "", fmt.Errorf("qemu.accel=kvm: %w: %w", why, hypervisor.ErrInvalid)
		}
		return accelKVM, nil
	}
	if why == nil && h.virtualizes(a) {
		return accelKVM, nil
	}
	return accelTCG, nil
}

func (h host) virtualizes(a *arch) bool {
	if a.vmx == nil {
		return true
	}
	for line := range strings.Lines(h.cpuinfo()) {
		key, flags, _ := strings.Cut(line, ":")
		if strings.TrimSpace(key) != "flags" {
			continue
		}
		for _, f := range strings.Fields(flags) {
			for _, want := range a.vmx {
				if f == want {
					return true
				}
			}
		}
	}
	return false
}
