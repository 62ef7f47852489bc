package sim

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"vmfs/backends/hypervisor"
)

const (
	defaultMemory = 128 << 20
	memoryStep    = 2 << 20
	memoryFloor   = hypervisor.MinMemory
)

// settings is what the extras of a configuration say.
type settings struct {
	bootTime     time.Duration
	powerOffTime time.Duration
	linger       bool
	caps         hypervisor.Capabilities
	faults       []Fault
}

// settingsOf reads the extras with the prefix "sim." over the defaults in c.
func settingsOf(c Config, extras map[string]string) (settings, error) {
	s := settings{
		bootTime:     c.BootTime,
		powerOffTime: c.PowerOffTime,
		linger:       c.Linger,
		caps: hypervisor.Capabilities{
			SupportsSnapshot:      true,
			SupportsHotplugMemory: true,
			SupportsPause:         true,
			SupportsVsock:         true,
		},
		faults: slices.Clone(c.Faults),
	}
	for _, f := range c.Faults {
		if err := f.check(); err != nil {
			return s, fmt.Errorf("fault %s: %w: %w", f, err, hypervisor.ErrInvalid)
		}
	}
	for _, word := range c.Without {
		if err := s.without(word); err != nil {
			return s, err
		}
	}
	for _, key := range slices.Sorted(maps.Keys(extras)) {
		if !strings.HasPrefix(key, "sim.") {
			continue
		}
		if err := s.set(key, extras[key]); err != nil {
			return s, fmt.Errorf("%s: %w", key, err)
		}
	}
	return s, nil
}

func (s *settings) set(key, value string) error {
	switch key {
	case "sim.boot-time":
		return setDuration(&s.bootTime, value)
	case "sim.poweroff-time":
		return setDuration(&s.powerOffTime, value)
	case "sim.linger":
		if value != "yes" && value != "no" {
			return fmt.Errorf("%q is neither yes nor no: %w", value, hypervisor.ErrInvalid)
		}
		s.linger = value == "yes"
	case "sim.without":
		for _, word := range strings.Split(value, ",") {
			if err := s.without(word); err != nil {
				return err
			}
		}
	case "sim.fault":
		for _, text := range strings.Split(value, ",") {
			f, err := ParseFault(text)
			if err != nil {
				return err
			}
			s.faults = append(s.faults, f)
		}
	default:
		return fmt.Errorf("unknown setting: %w", hypervisor.ErrInvalid)
	}
	return nil
}

func setDuration(d *time.Duration, value string) error {
	v, err := time.ParseDuration(value)
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a duration such as 50ms: %w", value, hypervisor.ErrInvalid)
	}
	*d = v
	return nil
}

func (s *settings) without(word string) error {
	switch word {
	case "pause":
		s.caps.SupportsPause = false
	case "snapshot":
		s.caps.SupportsSnapshot = false
	case "memory":
		s.caps.SupportsHotplugMemory = false
	case "vsock":
		s.caps.SupportsVsock = false
	default:
		return fmt.Errorf("%q is none of pause, snapshot, memory and vsock: %w", word, hypervisor.ErrInvalid)
	}
	return nil
}

// checkConfig refuses what a VMM would refuse of itself, and fills in what it would.
func checkConfig(c *hypervisor.VMConfig, caps hypervisor.Capabilities) error {
	if c.MemoryBytes == 0 {
		c.MemoryBytes = defaultMemory
	}
	c.VCPUs = cmp.Or(c.VCPUs, 1)
	if err := c.Check(); err != nil {
		return err
	}
	switch {
	case len(c.PCIDevices) > 0:
		return fmt.Errorf("PCI device %s: %w", c.PCIDevices[0], hypervisor.ErrNotSupported)
	case !caps.SupportsVsock && (c.VsockCID != 0 || c.VsockSocket != ""):
		return fmt.Errorf("vsock: %w", hypervisor.ErrNotSupported)
	}
	for _, d := range c.Disks {
		if d.IOBps != 0 || d.IOBurstBps != 0 {
			return fmt.Errorf("throughput limit of disk %s: %w", d.Path, hypervisor.ErrNotSupported)
		}
	}
	return nil
}

// checkFiles refuses a configuration that names files which are not there.
func checkFiles(c *hypervisor.VMConfig) error {
	files := map[string]string{"kernel": c.KernelPath, "initrd": c.InitrdPath}
	for i, d := range c.Disks {
		files[fmt.Sprintf("disk %d", i)] = d.Path
	}
	for _, what := range slices.Sorted(maps.Keys(files)) {
		if files[what] == "" {
			continue
		}
		if _, err := os.Stat(files[what]); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	return nil
}
