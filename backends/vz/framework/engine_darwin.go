//go:build darwin && cgo

package framework

import (
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"syscall"

	"github.com/Code-Hex/vz/v3"

	"vmfs/backends/vz/shim"
	"vmfs/backends/vz/shimconfig"
)

// New returns the framework.
func New() shim.Engine { return engine{} }

type engine struct{}

// features has for each feature a call that fails where the framework, or the SDK that
// this program was built with, does not have it. None has an effect.
var features = []struct {
	shimconfig.Feature
	try func() error
}{
	{shimconfig.FeatureVsock, func() error { _, err := vz.NewVirtioSocketDeviceConfiguration(); return err }},
	{shimconfig.FeatureBalloon, func() error { _, err := vz.NewVirtioTraditionalMemoryBalloonDeviceConfiguration(); return err }},
	{shimconfig.FeatureNetFiles, func() error { _, err := vz.NewNATNetworkDeviceAttachment(); return err }}, // came with it
	{shimconfig.FeatureStop, macOS12},
	{shimconfig.FeatureCaching, macOS12},
	{shimconfig.FeatureMachine, func() error { _, err := vz.NewGenericMachineIdentifier(); return err }},
	{shimconfig.FeatureEFI, func() error { _, err := vz.NewEFIBootLoader(); return err }},
	{shimconfig.FeatureSave, canSave},
	{shimconfig.FeatureBridged, canBridge},
}

func macOS12() error { _, err := vz.NewGenericPlatformConfiguration(); return err }

// canBridge has the framework validate a VM with and without a bridged network: it takes
// one only of a program that has the entitlement com.apple.vm.networking.
func canBridge() error {
	bridges := vz.NetworkInterfaces()
	if len(bridges) == 0 {
		return errors.New("no interface of this host can be bridged")
	}
	self, err := os.Executable() // any file will do for a kernel that is never booted
	if err != nil {
		return err
	}
	probe := &shimconfig.Config{
		CPUs: int(vz.VirtualMachineConfigurationMinimumAllowedCPUCount()), Memory: minMemory(),
		Boot: shimconfig.Boot{Linux: &shimconfig.Linux{Kernel: self}},
		Nets: []shimconfig.Net{{Kind: shimconfig.NetBridged, Interface: bridges[0].Identifier(), MAC: "52:54:00:00:00:01"}},
	}
	_, err = configure(probe, shim.Files{}, os.TempDir())
	return err
}

func minMemory() int64 {
	const mib = 1 << 20
	return (int64(vz.VirtualMachineConfigurationMinimumAllowedMemorySize()) + mib - 1) / mib * mib
}

// takes says what it would take where the framework is too old for something, or the SDK
// that this program was built with.
func takes(what string, version int, err error) error {
	switch {
	case errors.Is(err, vz.ErrUnsupportedOSVersion):
		here, _ := syscall.Sysctl("kern.osproductversion")
		return fmt.Errorf("%s takes macOS %d, and this is %s: %w", what, version, here, errors.ErrUnsupported)
	case errors.Is(err, vz.ErrBuildTargetOSVersion):
		return fmt.Errorf("%s takes a vmfs that was built with the SDK of macOS %d: %w: %w", what, version, err, errors.ErrUnsupported)
	}
	return err
}

func (engine) Host() (shimconfig.Host, error) {
	version, err := syscall.Sysctl("kern.osproductversion")
	if err != nil {
		return shimconfig.Host{}, fmt.Errorf("version of macOS: %w", err)
	}
	h := shimconfig.Host{
		Engine: "Virtualization.framework", Version: version, Arch: runtime.GOARCH,
		MinCPUs:   int(vz.VirtualMachineConfigurationMinimumAllowedCPUCount()),
		MaxCPUs:   int(vz.VirtualMachineConfigurationMaximumAllowedCPUCount()),
		MinMemory: minMemory(),
		MaxMemory: int64(min(vz.VirtualMachineConfigurationMaximumAllowedMemorySize(), math.MaxInt64)),
	}
	for _, f := range features {
		if f.try() == nil {
			h.Features = append(h.Features, f.Feature)
		}
	}
	for _, b := range vz.NetworkInterfaces() {
		h.Bridges = append(h.Bridges, b.Identifier())
	}
	return h, nil
}

func (engine) Check(c *shimconfig.Config) (shimconfig.Support, error) {
	scratch, err := os.MkdirTemp("", "vmfs-check")
	if err != nil {
		return shimconfig.Support{}, err
	}
	defer os.RemoveAll(scratch)
	files := shim.Files{Nets: make([]*os.File, len(c.Nets))}
	defer files.Close()
	for i, n := range c.Nets {
		if n.Kind != shimconfig.NetFile {
			continue
		}
		pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_DGRAM, 0)
		if err != nil {
			return shimconfig.Support{}, os.NewSyscallError("socketpair", err)
		}
		defer syscall.Close(pair[1])
		files.Nets[i] = os.NewFile(uintptr(pair[0]), "a socket that leads nowhere")
	}
	made, err := configure(c, files, scratch)
	if err != nil {
		return shimconfig.Support{}, err
	}
	return made.support, nil
}

func (engine) New(c *shimconfig.Config, files shim.Files) (shim.Machine, error) {
	made, err := configure(c, files, "")
	if err != nil {
		files.Close()
		return nil, err
	}
	vm, err := vz.NewVirtualMachine(made.config)
	if err != nil {
		files.Close()
		return nil, fmt.Errorf("make the VM: %w", err)
	}
	m := &machine{vm: vm, made: made, files: files, changes: make(chan shim.Change)}
	// Before the VM starts nothing changes these lists; later they belong to its queue.
	if all := vm.SocketDevices(); len(all) > 0 {
		m.vsock = all[0]
		m.ports.open = m.listen
	}
	for _, b := range vm.MemoryBalloonDevices() {
		if t, ok := b.(*vz.VirtioTraditionalMemoryBalloonDevice); ok {
			m.balloon = t
		}
	}
	go m.tell()
	return m, nil
}
