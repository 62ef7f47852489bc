package vz

import (
	"cmp"
	"fmt"
	"path/filepath"

	"vmfs/backends/hypervisor"
	"vmfs/backends/vz/shimconfig"
)

// memoryStep is the step in which a guest's memory is set, counted from what it boots with.
const memoryStep = int64(2) << 20

// check says what of a configuration the framework can never run, with the reason.
func check(c *hypervisor.VMConfig) error {
	if err := c.Check(); err != nil {
		return err
	}
	if err := settingKeys.CheckAll(settingsPrefix, c.Extras); err != nil {
		return err
	}
	refuse := func(format string, args ...any) error {
		return fmt.Errorf(format+": %w", append(args, hypervisor.ErrNotSupported)...)
	}
	for _, d := range c.Disks {
		switch {
		case d.Format == hypervisor.DiskQCOW2:
			return refuse("disk %s is a qcow2, and the framework reads raw images alone: convert it with `qemu-img convert -O raw %s %s`",
				d.Path, d.Path, d.Path+".raw")
		case d.IOBps != 0 || d.IOBurstBps != 0:
			return refuse("disk %s: the framework cannot limit a disk's throughput: leave out bps and burst", d.Path)
		}
	}
	for i, n := range c.Networks {
		switch {
		case n.TAPDevice != "":
			return refuse("network %d: macOS has no taps: use net=user, or net=bridge:en0", i)
		case n.Passt:
			return refuse("network %d: passt is a program of Linux: use net=user", i)
		case len(n.Forwards) > 0:
			return refuse("network %d: the framework's NAT forwards no ports: leave the forwards out, and use the guest's own address", i)
		}
	}
	if s := c.Extras[keyNetSocket]; s != "" {
		switch {
		case !filepath.IsAbs(s):
			return fmt.Errorf("%s=%s: want an absolute path: %w", keyNetSocket, s, hypervisor.ErrInvalid)
		case len(c.Networks) == 0 || !c.Networks[0].User:
			return fmt.Errorf("%s is what is behind the first network: add net=user: %w", keyNetSocket, hypervisor.ErrInvalid)
		}
	}
	switch {
	case c.Topology != nil:
		return refuse("topology: the framework has none: set vcpus alone")
	case len(c.PCIDevices) > 0:
		return refuse("PCI device %s: the framework cannot give a guest a device of the host", c.PCIDevices[0])
	}
	return nil
}

// ceiling is what a VM boots with: all that it can have.
func ceiling(c *hypervisor.VMConfig) int64 {
	return (c.MemoryBytes + c.HotplugBytes) / hypervisor.MemoryStep * hypervisor.MemoryStep
}

// roundTarget returns the step that is closest to bytes.
func roundTarget(c *hypervisor.VMConfig, bytes int64) int64 {
	most := ceiling(c)
	target := most - (most-bytes+memoryStep/2)/memoryStep*memoryStep
	if target < hypervisor.MinMemory {
		target += memoryStep
	}
	return min(target, most)
}

// shimConfig is a configuration as the shim has it, which is to have the identifier and the
// descriptors of the networks yet.
func shimConfig(dir runDir, c *hypervisor.VMConfig) (*shimconfig.Config, error) {
	if err := check(c); err != nil {
		return nil, err
	}
	vm := &shimconfig.Config{
		Version: shimconfig.Version, Name: c.Name, UUID: c.UUID, CPUs: max(c.VCPUs, 1), Memory: ceiling(c),
		Console: shimconfig.Console{Socket: absolute(dir.console()), Log: c.SerialLogPath, LogMax: c.SerialLogMax},
	}
	if target := roundTarget(c, c.MemoryBytes); target < vm.Memory {
		vm.Target = target
	}
	if c.KernelPath != "" {
		vm.Boot.Linux = &shimconfig.Linux{Kernel: c.KernelPath, Initrd: c.InitrdPath, Args: c.GuestArgs("hvc0")}
	} else {
		vm.Boot.EFI = &shimconfig.EFI{Variables: absolute(dir.efi())}
	}
	for _, d := range c.Disks {
		vm.Disks = append(vm.Disks, shimconfig.Disk{
			Path: d.Path, Readonly: d.Readonly,
			Caching: cmp.Or(shimconfig.Caching(c.Extras[keyCaching]), defaultCaching),
			Sync:    cmp.Or(shimconfig.Sync(c.Extras[keySync]), defaultSync),
		})
	}
	for i, n := range c.Networks {
		net := shimconfig.Net{Kind: shimconfig.NetNAT, MAC: c.MAC(i)}
		switch {
		case n.Bridge != "":
			net.Kind, net.Interface = shimconfig.NetBridged, n.Bridge
		case i == 0 && c.Extras[keyNetSocket] != "":
			net.Kind, net.FD = shimconfig.NetFile, firstNet
		}
		vm.Nets = append(vm.Nets, net)
	}
	if c.VsockCID != 0 {
		vm.Vsock = &shimconfig.Vsock{Socket: absolute(cmp.Or(c.VsockSocket, "vsock.sock"))}
	}
	return vm, nil
}

// absolute makes a path of no directory one of the root's, for a configuration that is only
// looked at.
func absolute(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return "/" + path
}
