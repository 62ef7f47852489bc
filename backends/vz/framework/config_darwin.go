//go:build darwin && cgo

package framework

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"

	"github.com/Code-Hex/vz/v3"

	"vmfs/backends/vz/shim"
	"vmfs/backends/vz/shimconfig"
)

// made is a valid configuration.
type made struct {
	config     *vz.VirtualMachineConfiguration
	identifier []byte
	nets       []*vz.VirtioNetworkDeviceConfiguration // in the order of macs
	macs       []string
	support    shimconfig.Support
}

// configure has the framework make and validate a configuration. For one that is only to
// be checked scratch is a directory for what is made: its disks are opened for reading
// alone, and it has no console.
func configure(c *shimconfig.Config, files shim.Files, scratch string) (*made, error) {
	loader, err := bootLoader(&c.Boot, scratch)
	if err != nil {
		return nil, fmt.Errorf("boot: %w", err)
	}
	config, err := vz.NewVirtualMachineConfiguration(loader, uint(c.CPUs), uint64(c.Memory))
	if err != nil {
		return nil, err
	}
	m := &made{config: config}
	if m.identifier, err = platform(config, c.Machine); err != nil {
		return nil, fmt.Errorf("machine identifier: %w", err)
	}
	disks := make([]vz.StorageDeviceConfiguration, len(c.Disks))
	for i, d := range c.Disks {
		d.Readonly = d.Readonly || scratch != ""
		if disks[i], err = disk(d); err != nil {
			return nil, fmt.Errorf("disk %s: %w", d.Path, err)
		}
	}
	config.SetStorageDevicesVirtualMachineConfiguration(disks)
	for i, n := range c.Nets {
		var file *os.File
		if i < len(files.Nets) {
			file = files.Nets[i]
		}
		device, err := network(n, file)
		if err != nil {
			return nil, fmt.Errorf("network %d (%s): %w", i, n.Kind, err)
		}
		m.nets, m.macs = append(m.nets, device), append(m.macs, n.MAC)
	}
	config.SetNetworkDevicesVirtualMachineConfiguration(m.nets)
	entropy, err := vz.NewVirtioEntropyDeviceConfiguration()
	if err != nil {
		return nil, fmt.Errorf("entropy: %w", err)
	}
	config.SetEntropyDevicesVirtualMachineConfiguration([]*vz.VirtioEntropyDeviceConfiguration{entropy})
	balloon, err := vz.NewVirtioTraditionalMemoryBalloonDeviceConfiguration()
	if err != nil {
		return nil, fmt.Errorf("balloon: %w", err)
	}
	config.SetMemoryBalloonDevicesVirtualMachineConfiguration([]vz.MemoryBalloonDeviceConfiguration{balloon})
	if c.Vsock != nil {
		vsock, err := vz.NewVirtioSocketDeviceConfiguration()
		if err != nil {
			return nil, fmt.Errorf("vsock: %w", err)
		}
		config.SetSocketDevicesVirtualMachineConfiguration([]vz.SocketDeviceConfiguration{vsock})
	}
	if files.ConsoleIn != nil {
		hvc0, err := console(files)
		if err != nil {
			return nil, fmt.Errorf("console: %w", err)
		}
		config.SetSerialPortsVirtualMachineConfiguration([]*vz.VirtioConsoleDeviceSerialPortConfiguration{hvc0})
	}
	switch ok, err := config.Validate(); {
	case err != nil:
		return nil, fmt.Errorf("the framework refuses the configuration: %w", err)
	case !ok:
		return nil, errors.New("the framework refuses the configuration and does not say why")
	}
	if err := canSave(); err != nil {
		m.support.NoSave = err.Error()
	} else if err := validateSave(config); err != nil {
		m.support.NoSave = err.Error()
	}
	return m, nil
}

func bootLoader(b *shimconfig.Boot, scratch string) (vz.BootLoader, error) {
	if b.Linux != nil {
		options := []vz.LinuxBootLoaderOption{vz.WithCommandLine(b.Linux.Args)}
		if b.Linux.Initrd != "" {
			options = append(options, vz.WithInitrd(b.Linux.Initrd))
		}
		return vz.NewLinuxBootLoader(b.Linux.Kernel, options...)
	}
	if b.EFI == nil {
		return nil, errors.New("neither Linux nor EFI")
	}
	path := b.EFI.Variables
	var options []vz.NewEFIVariableStoreOption
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		options = append(options, vz.WithCreatingEFIVariableStore())
		if scratch != "" {
			path = filepath.Join(scratch, "variables")
		}
	}
	variables, err := vz.NewEFIVariableStore(path, options...)
	if err != nil {
		return nil, takes("EFI", 13, fmt.Errorf("variables %s: %w", path, err))
	}
	return vz.NewEFIBootLoader(vz.WithEFIVariableStore(variables))
}

// platform sets what the VM's hardware is known by in saved states: kept, or a new one. A
// host without such identifiers has its default, and cannot save.
func platform(config *vz.VirtualMachineConfiguration, kept []byte) (identifier []byte, err error) {
	var id *vz.GenericMachineIdentifier
	if len(kept) > 0 {
		id, err = vz.NewGenericMachineIdentifierWithData(kept)
	} else {
		id, err = vz.NewGenericMachineIdentifier()
	}
	switch {
	case errors.Is(err, vz.ErrUnsupportedOSVersion) && len(kept) == 0, errors.Is(err, vz.ErrBuildTargetOSVersion) && len(kept) == 0:
		return nil, nil
	case err != nil:
		return nil, takes("a VM that can be restored", 13, err)
	}
	identifier = slices.Clone(id.DataRepresentation()) // the framework's own memory
	if len(kept) > 0 && !slices.Equal(identifier, kept) {
		return nil, errors.New("the framework does not know the one that was kept")
	}
	p, err := vz.NewGenericPlatformConfiguration(vz.WithGenericMachineIdentifier(id))
	if err != nil {
		return nil, err
	}
	config.SetPlatformVirtualMachineConfiguration(p)
	return identifier, nil
}

var cachings = map[shimconfig.Caching]vz.DiskImageCachingMode{
	shimconfig.CachingAutomatic: vz.DiskImageCachingModeAutomatic,
	shimconfig.CachingCached:    vz.DiskImageCachingModeCached,
	shimconfig.CachingUncached:  vz.DiskImageCachingModeUncached,
}

var syncs = map[shimconfig.Sync]vz.DiskImageSynchronizationMode{
	shimconfig.SyncFull:  vz.DiskImageSynchronizationModeFull,
	shimconfig.SyncFsync: vz.DiskImageSynchronizationModeFsync,
	shimconfig.SyncNone:  vz.DiskImageSynchronizationModeNone,
}

func disk(d shimconfig.Disk) (vz.StorageDeviceConfiguration, error) {
	image, err := vz.NewDiskImageStorageDeviceAttachmentWithCacheAndSync(d.Path, d.Readonly, cachings[d.Caching], syncs[d.Sync])
	if err != nil {
		return nil, takes("the caching of a disk", 12, err)
	}
	return vz.NewVirtioBlockDeviceConfiguration(image)
}

func network(n shimconfig.Net, file *os.File) (*vz.VirtioNetworkDeviceConfiguration, error) {
	hw, err := net.ParseMAC(n.MAC)
	if err != nil {
		return nil, err
	}
	mac, err := vz.NewMACAddress(hw)
	if err != nil {
		return nil, err
	}
	var behind vz.NetworkDeviceAttachment
	switch n.Kind {
	case shimconfig.NetNAT:
		behind, err = vz.NewNATNetworkDeviceAttachment()
	case shimconfig.NetBridged:
		bridges := vz.NetworkInterfaces()
		i := slices.IndexFunc(bridges, func(b vz.BridgedNetwork) bool { return b.Identifier() == n.Interface })
		if i < 0 {
			return nil, fmt.Errorf("no interface %s of this host can be bridged", n.Interface)
		}
		behind, err = vz.NewBridgedNetworkDeviceAttachment(bridges[i])
	case shimconfig.NetFile:
		if file == nil {
			return nil, errors.New("the socket of the network is missing")
		}
		behind, err = vz.NewFileHandleNetworkDeviceAttachment(file)
	default:
		err = fmt.Errorf("no such kind of network: %w", errors.ErrUnsupported)
	}
	if err != nil {
		return nil, err
	}
	device, err := vz.NewVirtioNetworkDeviceConfiguration(behind)
	if err != nil {
		return nil, err
	}
	device.SetMACAddress(mac)
	return device, nil
}

func console(files shim.Files) (*vz.VirtioConsoleDeviceSerialPortConfiguration, error) {
	port, err := vz.NewFileHandleSerialPortAttachment(files.ConsoleIn, files.ConsoleOut)
	if err != nil {
		return nil, err
	}
	return vz.NewVirtioConsoleDeviceSerialPortConfiguration(port)
}
