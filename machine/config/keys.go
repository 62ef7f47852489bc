package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"vmfs/backends/hypervisor"
)

// Key is one row of the table of keys.
type Key struct {
	Name  string
	Value string // the form of the value
	Help  string
	// Live keys can change while the VM runs.
	Live bool
	// Repeat keys can stand on several lines.
	Repeat bool

	words bool // the value may be several words without quotes
	set   func(c *Config, key, value string) error
	clear func(c *Config, key string)
	get   func(c *Config) []string
}

// Keys returns the table: every key but those of one back end only.
func Keys() []Key { return slices.Clone(table) }

const (
	maxVCPUs  = 512
	maxMemory = int64(1) << 46 // 64 TiB
	minCID    = 3
	maxCID    = int64(1)<<32 - 2
	autoCID   = "auto"
)

// table is filled in by init because its functions refer to it through find.
var table []Key

func init() {
	table = []Key{
		{
			Name: "hypervisor", Value: "qemu|cloud-hypervisor|vz|sim", Help: "the back end that runs the VM",
			set: func(c *Config, _, v string) error {
				types := []hypervisor.Type{hypervisor.TypeQEMU, hypervisor.TypeCloudHypervisor, hypervisor.TypeVZ, hypervisor.TypeSim}
				if !slices.Contains(types, hypervisor.Type(v)) {
					return fmt.Errorf("unknown hypervisor %q: there are qemu, cloud-hypervisor, vz and sim", v)
				}
				c.hv = hypervisor.Type(v)
				return nil
			},
			clear: func(c *Config, _ string) { c.hv = Default().hv },
			get:   func(c *Config) []string { return []string{string(c.hv)} },
		},
		{
			Name: "vcpus", Value: "N", Help: "virtual CPUs, 1 to 512",
			set: func(c *Config, _, v string) (err error) {
				c.vm.VCPUs, err = parseCount(v, maxVCPUs)
				return err
			},
			clear: func(c *Config, _ string) { c.vm.VCPUs = Default().vm.VCPUs },
			get:   func(c *Config) []string { return []string{strconv.Itoa(c.vm.VCPUs)} },
		},
		{
			Name: "topology", Value: "packages:N,dies:N,cores:N,threads:N", Help: "how the CPUs are laid out; what is left out is 1; the product must be vcpus",
			set: func(c *Config, _, v string) error {
				t, err := parseTopology(v)
				if err == nil {
					c.vm.Topology = &t
				}
				return err
			},
			clear: func(c *Config, _ string) { c.vm.Topology = nil },
			get: func(c *Config) []string {
				if c.vm.Topology == nil {
					return nil
				}
				return []string{formatTopology(*c.vm.Topology)}
			},
		},
		{
			Name: "memory", Value: "SIZE", Help: "the guest's memory at start; while it runs, its target as with the memory file", Live: true,
			set:   sizeKey(func(c *Config) *int64 { return &c.vm.MemoryBytes }, 1<<20),
			clear: func(c *Config, _ string) { c.vm.MemoryBytes = Default().vm.MemoryBytes },
			get:   func(c *Config) []string { return []string{FormatSize(c.vm.MemoryBytes)} },
		},
		{
			Name: "hotplug", Value: "SIZE", Help: "memory that can be added above memory while the VM runs",
			set:   sizeKey(func(c *Config) *int64 { return &c.vm.HotplugBytes }, 0),
			clear: func(c *Config, _ string) { c.vm.HotplugBytes = 0 },
			get: func(c *Config) []string {
				if c.vm.HotplugBytes == 0 {
					return nil
				}
				return []string{FormatSize(c.vm.HotplugBytes)}
			},
		},
		pathKey("kernel", "the kernel image to boot", func(c *Config) *string { return &c.vm.KernelPath }),
		pathKey("initrd", "the initial ramdisk", func(c *Config) *string { return &c.vm.InitrdPath }),
		{
			Name: "args", Value: "WORDS", Help: "the kernel's command line, to the end of the line", words: true,
			set:   func(c *Config, _, v string) error { c.vm.KernelArgs = v; return nil },
			clear: func(c *Config, _ string) { c.vm.KernelArgs = "" },
			get:   func(c *Config) []string { return nonEmpty(c.vm.KernelArgs) },
		},
		{
			Name: "disk", Value: "path:FILE[,format:raw|qcow2][,readonly:yes|no][,bps:SIZE][,burst:SIZE]", Repeat: true,
			Help: "a disk; the format is what this says, raw unless said, never probed; bps and burst limit its bytes a second",
			set: func(c *Config, _, v string) error {
				d, err := parseDisk(v)
				if err == nil {
					c.vm.Disks = append(c.vm.Disks, d)
				}
				return err
			},
			clear: func(c *Config, _ string) { c.vm.Disks = nil },
			get: func(c *Config) []string {
				return formatAll(c.vm.Disks, formatDisk)
			},
		},
		{
			Name: "net", Value: "tap:NAME[,mac:MAC][,ip:ADDR,netmask:MASK] | user|passt[,mac:MAC][,forward:PROTO:ADDR:PORT:GUESTPORT]…", Repeat: true,
			Help: "a network device: on a tap of the host, or in user mode by the VMM itself or by passt(1)",
			set: func(c *Config, _, v string) error {
				n, err := parseNet(v)
				if err == nil {
					c.vm.Networks = append(c.vm.Networks, n)
				}
				return err
			},
			clear: func(c *Config, _ string) { c.vm.Networks = nil },
			get: func(c *Config) []string {
				return formatAll(c.vm.Networks, formatNet)
			},
		},
		{
			Name: "pci", Value: "ADDRESS|/sys/PATH", Help: "a PCI or mediated device of the host for the guest alone", Repeat: true,
			set: func(c *Config, _, v string) error {
				if err := checkPCI(v); err != nil {
					return err
				}
				c.vm.PCIDevices = append(c.vm.PCIDevices, v)
				return nil
			},
			clear: func(c *Config, _ string) { c.vm.PCIDevices = nil },
			get:   func(c *Config) []string { return c.vm.PCIDevices },
		},
		{
			Name: "vsock.cid", Value: "N|auto", Help: "the guest's vsock context ID, 3 to 4294967294, or auto for one that no other VM has",
			set: func(c *Config, _, v string) error {
				if v == autoCID {
					c.vm.VsockCID, c.autoCID = 0, true
					return nil
				}
				n, err := strconv.ParseInt(v, 10, 64)
				if err != nil || n < minCID || n > maxCID {
					return fmt.Errorf("%q is not a context ID: want %d to %d, or %s", v, minCID, maxCID, autoCID)
				}
				c.vm.VsockCID, c.autoCID = n, false
				return nil
			},
			clear: func(c *Config, _ string) { c.vm.VsockCID, c.autoCID = 0, false },
			get: func(c *Config) []string {
				switch {
				case c.autoCID:
					return []string{autoCID}
				case c.vm.VsockCID == 0:
					return nil
				}
				return []string{strconv.FormatInt(c.vm.VsockCID, 10)}
			},
		},
		pathKey("vsock.socket", "the host-side Unix socket of the guest's vsock", func(c *Config) *string { return &c.vm.VsockSocket }),
		pathKey("serial.log", "the file that the console's output is appended to, in place of the VM's own", func(c *Config) *string { return &c.vm.SerialLogPath }),
	}
}

// extra is the row for the keys of one back end only.
var extra = Key{
	set: func(c *Config, key, v string) error {
		t, _, _ := strings.Cut(key, ".")
		if s, ok := hypervisor.StarterFor(hypervisor.Type(t)); ok {
			if ck, ok := s.(hypervisor.ExtraChecker); ok {
				if err := ck.CheckExtra(key, v); err != nil {
					return err
				}
			}
		}
		if c.vm.Extras == nil {
			c.vm.Extras = make(map[string]string)
		}
		c.vm.Extras[key] = v
		return nil
	},
	clear: func(c *Config, key string) { delete(c.vm.Extras, key) },
}

// find returns the row of a key.
func find(name string) (Key, bool) {
	for _, k := range table {
		if k.Name == name {
			return k, true
		}
	}
	switch prefix, rest, ok := strings.Cut(name, "."); hypervisor.Type(prefix) {
	case hypervisor.TypeQEMU, hypervisor.TypeCloudHypervisor, hypervisor.TypeVZ, hypervisor.TypeSim:
		if ok && rest != "" && !strings.ContainsAny(rest, " \t'") {
			return extra, true
		}
	}
	return Key{}, false
}

func unknownKey(name string) error {
	names := make([]string, len(table))
	for i, k := range table {
		names[i] = k.Name
	}
	return fmt.Errorf("unknown key %q: there are %s, and each back end's own (qemu.accel, …)", name, strings.Join(names, ", "))
}

func sizeKey(field func(*Config) *int64, least int64) func(*Config, string, string) error {
	return func(c *Config, _, v string) error {
		n, err := ParseSize(v)
		if err != nil {
			return err
		}
		if n < least || n > maxMemory {
			return fmt.Errorf("%s is out of range: want %s to %s", v, FormatSize(least), FormatSize(maxMemory))
		}
		*field(c) = n
		return nil
	}
}

func pathKey(name, help string, field func(*Config) *string) Key {
	return Key{
		Name: name, Value: "FILE", Help: help,
		set: func(c *Config, _, v string) error {
			if err := checkPath(v); err != nil {
				return err
			}
			*field(c) = v
			return nil
		},
		clear: func(c *Config, _ string) { *field(c) = "" },
		get:   func(c *Config) []string { return nonEmpty(*field(c)) },
	}
}

// checkPath wants an absolute path: the server's working directory is not the
// writer's.
func checkPath(p string) error {
	if !filepath.IsAbs(p) {
		return fmt.Errorf("%q is not an absolute path", p)
	}
	return nil
}

func nonEmpty(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

func formatAll[T any](list []T, format func(T) string) []string {
	var s []string
	for _, v := range list {
		s = append(s, format(v))
	}
	return s
}

func parseCount(v string, most int) (int, error) {
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 || n > most {
		return 0, fmt.Errorf("%q is not a number from 1 to %d", v, most)
	}
	return n, nil
}

func parseTopology(v string) (hypervisor.CPUTopology, error) {
	t := hypervisor.CPUTopology{ThreadsPerCore: 1, CoresPerDie: 1, DiesPerPackage: 1, Packages: 1}
	fields, err := parseFields(v)
	if err != nil {
		return t, err
	}
	for _, f := range fields {
		n, err := parseCount(f.value, maxVCPUs)
		if err != nil {
			return t, fmt.Errorf("%s: %w", f.key, err)
		}
		switch f.key {
		case "packages":
			t.Packages = n
		case "dies":
			t.DiesPerPackage = n
		case "cores":
			t.CoresPerDie = n
		case "threads":
			t.ThreadsPerCore = n
		default:
			return t, fmt.Errorf("unknown part %q: there are packages, dies, cores and threads", f.key)
		}
	}
	return t, nil
}

func formatTopology(t hypervisor.CPUTopology) string {
	return fmt.Sprintf("packages:%d,dies:%d,cores:%d,threads:%d",
		max(t.Packages, 1), max(t.DiesPerPackage, 1), max(t.CoresPerDie, 1), max(t.ThreadsPerCore, 1))
}

var errDuplicate = errors.New("given twice")
