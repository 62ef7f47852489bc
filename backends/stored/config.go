// Package stored is a VM's configuration as back ends keep it on disk: in what they
// record of a running VM, and in snapshots. It has names of its own for all that is
// in it, so that what is written today is read by later versions, whatever they call
// the fields of hypervisor.VMConfig.
//
// The package imports the standard library and package hypervisor.
package stored

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"vmfs/backends/hypervisor"
)

// A Config is a configuration that has a form on disk.
type Config struct{ hypervisor.VMConfig }

// config is the form on disk. Its names are never changed. At first VMConfig was
// written as it was: those names differ from these in the case of their letters
// alone, which encoding/json does not mind, so that one type reads both.
type config struct {
	VCPUs         int               `json:"vcpus"`
	MemoryBytes   int64             `json:"memoryBytes"`
	HotplugBytes  int64             `json:"hotplugBytes,omitempty"`
	Topology      *topology         `json:"topology,omitempty"`
	Disks         []disk            `json:"disks,omitempty"`
	Networks      []network         `json:"networks,omitempty"`
	SerialLogPath string            `json:"serialLogPath,omitempty"`
	SerialLogMax  int64             `json:"serialLogMax,omitempty"`
	VsockCID      int64             `json:"vsockCID,omitempty"`
	VsockSocket   string            `json:"vsockSocket,omitempty"`
	PCIDevices    []string          `json:"pciDevices,omitempty"`
	KernelPath    string            `json:"kernelPath,omitempty"`
	InitrdPath    string            `json:"initrdPath,omitempty"`
	KernelArgs    string            `json:"kernelArgs,omitempty"`
	Name          string            `json:"name,omitempty"`
	UUID          string            `json:"uuid,omitempty"`
	LogPath       string            `json:"logPath,omitempty"`
	Extras        map[string]string `json:"extras,omitempty"`
}

type topology struct {
	ThreadsPerCore int `json:"threadsPerCore,omitempty"`
	CoresPerDie    int `json:"coresPerDie,omitempty"`
	DiesPerPackage int `json:"diesPerPackage,omitempty"`
	Packages       int `json:"packages,omitempty"`
}

type disk struct {
	Path       string                `json:"path"`
	Readonly   bool                  `json:"readonly,omitempty"`
	IOBps      int64                 `json:"ioBps,omitempty"`
	IOBurstBps int64                 `json:"ioBurstBps,omitempty"`
	Format     hypervisor.DiskFormat `json:"format,omitempty"`
	Size       int64                 `json:"size,omitempty"`
}

type network struct {
	TAPDevice string   `json:"tapDevice,omitempty"`
	Bridge    string   `json:"bridge,omitempty"`
	IP        string   `json:"ip,omitempty"`
	MAC       string   `json:"mac,omitempty"`
	Netmask   string   `json:"netmask,omitempty"`
	User      bool     `json:"user,omitempty"`
	Passt     bool     `json:"passt,omitempty"`
	Forwards  []string `json:"forwards,omitempty"`
}

// MarshalJSON has conversions, as UnmarshalJSON does, which need both types to have the
// same fields: one that is added to a disk or a network of one alone does not compile.
func (c Config) MarshalJSON() ([]byte, error) {
	s := config{
		VCPUs: c.VCPUs, MemoryBytes: c.MemoryBytes, HotplugBytes: c.HotplugBytes, Topology: (*topology)(c.Topology),
		SerialLogPath: c.SerialLogPath, SerialLogMax: c.SerialLogMax, VsockCID: c.VsockCID, VsockSocket: c.VsockSocket, PCIDevices: c.PCIDevices,
		KernelPath: c.KernelPath, InitrdPath: c.InitrdPath, KernelArgs: c.KernelArgs,
		Name: c.Name, UUID: c.UUID, LogPath: c.LogPath, Extras: c.Extras,
	}
	for _, d := range c.Disks {
		s.Disks = append(s.Disks, disk(d))
	}
	for _, n := range c.Networks {
		s.Networks = append(s.Networks, network(n))
	}
	return json.Marshal(s)
}

// UnmarshalJSON reads what MarshalJSON wrote, and what was written before it.
func (c *Config) UnmarshalJSON(b []byte) error {
	var s config
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	c.VMConfig = hypervisor.VMConfig{
		VCPUs: s.VCPUs, MemoryBytes: s.MemoryBytes, HotplugBytes: s.HotplugBytes, Topology: (*hypervisor.CPUTopology)(s.Topology),
		SerialLogPath: s.SerialLogPath, SerialLogMax: s.SerialLogMax, VsockCID: s.VsockCID, VsockSocket: s.VsockSocket, PCIDevices: s.PCIDevices,
		KernelPath: s.KernelPath, InitrdPath: s.InitrdPath, KernelArgs: s.KernelArgs,
		Name: s.Name, UUID: s.UUID, LogPath: s.LogPath, Extras: s.Extras,
	}
	for _, d := range s.Disks {
		c.Disks = append(c.Disks, hypervisor.DiskConfig(d))
	}
	for _, n := range s.Networks {
		c.Networks = append(c.Networks, hypervisor.NetworkConfig(n))
	}
	return nil
}

// sameSizes tells whether disks are to have the sizes that they were saved with; 0 is
// whatever that is. One that grows would do so behind the guest's back.
func sameSizes(saved, over []hypervisor.DiskConfig) bool {
	for i := range min(len(saved), len(over)) {
		if size := over[i].Size; size != 0 && size != saved[i].Size {
			return false
		}
	}
	return true
}

// Lay returns the configuration of a VM that is restored on this host: what is the
// host's (paths, limits, networks, sockets, CID, identity, and the settings named) is as
// in over, the rest as it was saved. The memory in over does not count, since it may
// have been changed while the VM ran; all else in it that does not fit the
// guest's state is an ErrInvalid.
func Lay(saved, over hypervisor.VMConfig, settings ...string) (hypervisor.VMConfig, error) {
	rest := func(c hypervisor.VMConfig) map[string]string {
		extras := maps.Clone(c.Extras)
		maps.DeleteFunc(extras, func(key, _ string) bool { return slices.Contains(settings, key) })
		return extras
	}
	var t hypervisor.CPUTopology
	type kind struct {
		readonly bool
		format   hypervisor.DiskFormat
	}
	kinds := func(c hypervisor.VMConfig) (list []kind) {
		for _, d := range c.Disks {
			list = append(list, kind{d.Readonly, cmp.Or(d.Format, hypervisor.DiskRaw)})
		}
		return list
	}
	for what, same := range map[string]bool{
		"number of virtual CPUs, and their topology,": max(saved.VCPUs, 1) == max(over.VCPUs, 1) && *cmp.Or(saved.Topology, &t) == *cmp.Or(over.Topology, &t),
		"memory for hotplug":                          saved.HotplugBytes == over.HotplugBytes,
		"disks, by format and readonly":               slices.Equal(kinds(saved), kinds(over)),
		"size of disks":                               sameSizes(saved.Disks, over.Disks),
		"number of networks":                          len(saved.Networks) == len(over.Networks),
		"number of PCI devices":                       len(saved.PCIDevices) == len(over.PCIDevices),
		"vsock device":                                (saved.VsockCID != 0) == (over.VsockCID != 0) && (saved.VsockSocket == "" || over.VsockSocket != ""),
		"kernel":                                      (saved.KernelPath != "") == (over.KernelPath != ""),
		"settings":                                    maps.Equal(rest(saved), rest(over)),
	} {
		if !same {
			return saved, fmt.Errorf("the %s must be as in the snapshot: %w", what, hypervisor.ErrInvalid)
		}
	}
	over.VCPUs, over.Topology, over.MemoryBytes = saved.VCPUs, saved.Topology, saved.MemoryBytes
	if saved.VsockSocket == "" {
		over.VsockSocket = "" // the device is the kernel's
	}
	return over, nil
}
