package config

import (
	"fmt"
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
	set   func(c *Config, value string) error
	clear func(c *Config)
	get   func(c *Config) []string // what to print, a value a line
}

// Keys returns the table: every key but those of one back end only.
func Keys() []Key { return slices.Clone(table) }

// backends are those that a VM can be of.
var backends = func() (names []string) {
	for _, t := range hypervisor.KnownTypes() {
		names = append(names, string(t))
	}
	return names
}()

// table is every key. A new one is a row here, and a field of VMConfig.
var table = []Key{
	one(Key{Name: "hypervisor", Value: strings.Join(backends, "|"), Help: "the back end that runs the VM"},
		func(c *Config) *hypervisor.Type { return &c.hv }, parseType, str),
	one(Key{Name: "vcpus", Value: "N", Help: fmt.Sprintf("virtual CPUs, 1 to %d", hypervisor.MaxVCPUs)},
		func(c *Config) *int { return &c.vm.VCPUs }, parseCount, strconv.Itoa),
	one(Key{
		Name: "topology", Value: "packages:N,dies:N,cores:N,threads:N",
		Help: "how the CPUs are laid out; what is left out is 1; the product must be vcpus",
	}, func(c *Config) **hypervisor.CPUTopology { return &c.vm.Topology }, parseTopology, formatTopology),
	one(Key{
		Name: "memory", Value: "SIZE", Live: true,
		Help: "the guest's memory at start, in whole MiB; while it runs, its target as with the memory file",
	}, func(c *Config) *int64 { return &c.vm.MemoryBytes }, checked(ParseSize, hypervisor.CheckMemory), FormatSize),
	one(Key{Name: "hotplug", Value: "SIZE", Help: "memory that can be added above memory while the VM runs"},
		func(c *Config) *int64 { return &c.vm.HotplugBytes }, ParseSize, FormatSize),
	one(Key{Name: "kernel", Value: "FILE", Help: "the kernel image to boot"},
		func(c *Config) *string { return &c.vm.KernelPath }, parsePath, str),
	one(Key{Name: "initrd", Value: "FILE", Help: "the initial ramdisk"},
		func(c *Config) *string { return &c.vm.InitrdPath }, parsePath, str),
	one(Key{Name: "args", Value: "WORDS", Help: "the kernel's command line, to the end of the line", words: true},
		func(c *Config) *string { return &c.vm.KernelArgs }, parseText, str),
	many(Key{
		Name: "disk", Value: "path:FILE[,format:raw|qcow2][,size:SIZE][,readonly:yes|no][,bps:SIZE][,burst:SIZE]",
		Help: "a disk; the format is what this says, raw unless said, never probed; size makes a missing image and lets a smaller one grow; bps and burst limit its bytes a second",
	}, func(c *Config) *[]hypervisor.DiskConfig { return &c.vm.Disks }, parseDisk,
		func(d hypervisor.DiskConfig) string { return formatParts(diskParts(&d)) }),
	many(Key{
		Name:  "net",
		Value: "tap:NAME|bridge:NAME[,mac:MAC][,ip:ADDR,netmask:MASK] | user|passt[,mac:MAC][,forward:PROTO:ADDR:PORT:GUESTPORT]…",
		Help:  "a network device: on a tap of the host, on a bridge of the host by a tap made for it, or in user mode by the VMM itself or by passt(1)",
	}, func(c *Config) *[]hypervisor.NetworkConfig { return &c.vm.Networks }, parseNet,
		func(n hypervisor.NetworkConfig) string { return formatParts(netParts(&n)) }),
	many(Key{Name: "pci", Value: "ADDRESS|UUID|/sys/PATH", Help: "a PCI or mediated device of the host for the guest alone; such a VM has no snapshots"},
		func(c *Config) *[]string { return &c.vm.PCIDevices }, checked(parseText, hypervisor.CheckPCIDevice), str),
	one(Key{
		Name: "vsock.cid", Value: "N|auto",
		Help: fmt.Sprintf("the guest's vsock context ID, %d to %d, or auto for one that no other VM has", hypervisor.MinVsockCID, int64(hypervisor.MaxVsockCID)),
	}, func(c *Config) *int64 { return &c.vm.VsockCID }, parseCID, formatCID),
	one(Key{Name: "vsock.socket", Value: "FILE", Help: "the host-side Unix socket of the guest's vsock"},
		func(c *Config) *string { return &c.vm.VsockSocket }, checked(parseText, hypervisor.CheckVsockSocket), str),
	one(Key{Name: "serial.log", Value: "FILE", Help: "the file that the console's output is appended to, in place of the VM's own"},
		func(c *Config) *string { return &c.vm.SerialLogPath }, parsePath, str),
}

// one completes the row of a key that has one value. Its zero value is not printed.
func one[T comparable](k Key, field func(*Config) *T, parse func(string) (T, error), format func(T) string) Key {
	k.set = func(c *Config, text string) error {
		v, err := parse(text)
		if err == nil {
			*field(c) = v
		}
		return err
	}
	k.clear = func(c *Config) {
		d := Default()
		*field(c) = *field(&d)
	}
	k.get = func(c *Config) []string {
		var zero T
		if v := *field(c); v != zero {
			return []string{format(v)}
		}
		return nil
	}
	return k
}

// many completes the row of a key that can be repeated.
func many[T any](k Key, field func(*Config) *[]T, parse func(string) (T, error), format func(T) string) Key {
	k.Repeat = true
	k.set = func(c *Config, text string) error {
		v, err := parse(text)
		if err == nil {
			*field(c) = append(*field(c), v)
		}
		return err
	}
	k.clear = func(c *Config) { *field(c) = nil }
	k.get = func(c *Config) []string {
		var values []string
		for _, v := range *field(c) {
			values = append(values, format(v))
		}
		return values
	}
	return k
}

// extra is the row of a key of one back end only.
func extra(key string) Key {
	return Key{
		set: func(c *Config, v string) error {
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
		clear: func(c *Config) { delete(c.vm.Extras, key) },
	}
}

// find returns the row of a key.
func find(name string) (Key, error) {
	if i := slices.IndexFunc(table, func(k Key) bool { return k.Name == name }); i >= 0 {
		return table[i], nil
	}
	prefix, rest, _ := strings.Cut(name, ".")
	if slices.Contains(backends, prefix) && extraName(rest) {
		return extra(name), nil
	}
	var list []string
	for _, k := range table {
		list = append(list, k.Name)
	}
	return Key{}, fmt.Errorf("unknown key %.100q: there are %s, and each back end's own (qemu.accel, …)", name, strings.Join(list, ", "))
}

// extraName tells whether a key of one back end can be called that.
func extraName(name string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
	return name != "" && len(name) <= 64 && !strings.ContainsFunc(name, func(r rune) bool { return !strings.ContainsRune(letters, r) })
}

// checked is parse, followed by a check of what that made.
func checked[T any](parse func(string) (T, error), check func(T) error) func(string) (T, error) {
	return func(text string) (T, error) {
		v, err := parse(text)
		if err == nil {
			err = check(v)
		}
		return v, err
	}
}

func parseText(v string) (string, error) { return v, nil }

var parsePath = checked(parseText, hypervisor.CheckPath)

func str[S ~string](v S) string { return string(v) }

func parseType(v string) (hypervisor.Type, error) {
	if !slices.Contains(backends, v) {
		return "", fmt.Errorf("unknown hypervisor %q: there are %s", v, strings.Join(backends, ", "))
	}
	return hypervisor.Type(v), nil
}

func parseCount(v string) (int, error) {
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 || n > hypervisor.MaxVCPUs {
		return 0, fmt.Errorf("%q is not a number from 1 to %d", v, hypervisor.MaxVCPUs)
	}
	return n, nil
}

func parseTopology(v string) (*hypervisor.CPUTopology, error) {
	t := &hypervisor.CPUTopology{ThreadsPerCore: 1, CoresPerDie: 1, DiesPerPackage: 1, Packages: 1}
	return t, parseParts(v, topologyParts(t))
}

func formatTopology(t *hypervisor.CPUTopology) string { return formatParts(topologyParts(t)) }

func parseDisk(v string) (hypervisor.DiskConfig, error) {
	d := hypervisor.DiskConfig{Format: hypervisor.DiskRaw}
	if err := parseParts(v, diskParts(&d)); err != nil {
		return d, err
	}
	return d, d.Check()
}

func parseNet(v string) (hypervisor.NetworkConfig, error) {
	var n hypervisor.NetworkConfig
	if err := parseParts(v, netParts(&n)); err != nil {
		return n, err
	}
	return n, n.Check()
}

// autoCID stands for a context ID that is to be picked.
const autoCID = -1

func parseCID(v string) (int64, error) {
	if v == "auto" {
		return autoCID, nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is not a number, nor auto", v)
	}
	return n, hypervisor.CheckVsockCID(n)
}

func formatCID(cid int64) string {
	if cid == autoCID {
		return "auto"
	}
	return strconv.FormatInt(cid, 10)
}
