// Package config is the text of a VM's config file: lines of KEY=VALUE, what each
// key means, and the hypervisor.VMConfig that they add up to.
//
// One table (keys.go) holds every key; parsing, printing, help and the manual
// come from it. What a text may have has bounds, so that to parse one takes no time
// (limits.go). The package imports backends/hypervisor, internal/printable and machine/rc
// only.
package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"vmfs/backends/hypervisor"
	"vmfs/machine/rc"
)

// Config is the configuration of one VM. The zero value is not a valid one:
// start from Default. A Config is not changed once made; Parse and Merge return
// new ones.
type Config struct {
	hv hypervisor.Type
	// vm holds what the keys set. The fields that are not keys (Name, UUID,
	// LogPath) stay empty. VsockCID can be autoCID.
	vm hypervisor.VMConfig
}

// Default returns the configuration of a new VM.
func Default() Config {
	return Config{
		hv: hypervisor.TypeQEMU,
		vm: hypervisor.VMConfig{VCPUs: 1, MemoryBytes: 512 << 20},
	}
}

// ForType returns c with the back end t.
func (c Config) ForType(t hypervisor.Type) Config {
	c.hv = t
	return c
}

// Type returns the back end.
func (c Config) Type() hypervisor.Type { return c.hv }

// AutoCID tells whether the guest's vsock context ID is to be picked for it.
// VMConfig has none then.
func (c Config) AutoCID() bool { return c.vm.VsockCID == autoCID }

// VMConfig returns what the back end needs to know. The caller owns the result.
func (c Config) VMConfig() hypervisor.VMConfig {
	vm := c.clone().vm
	if c.AutoCID() {
		vm.VsockCID = 0
	}
	return vm
}

func (c Config) clone() Config {
	c.vm.Disks = slices.Clone(c.vm.Disks)
	c.vm.PCIDevices = slices.Clone(c.vm.PCIDevices)
	c.vm.Networks = slices.Clone(c.vm.Networks)
	for i := range c.vm.Networks {
		c.vm.Networks[i].Forwards = slices.Clone(c.vm.Networks[i].Forwards)
	}
	c.vm.Extras = maps.Clone(c.vm.Extras)
	if c.vm.Topology != nil {
		t := *c.vm.Topology
		c.vm.Topology = &t
	}
	return c
}

// DiskSized returns c with the size of one disk changed.
func (c Config) DiskSized(disk int, bytes int64) Config {
	c = c.clone()
	c.vm.Disks[disk].Size = bytes
	return c
}

// Error is a line that is not right. It is a hypervisor.ErrInvalid.
type Error struct {
	Line int    // from 1; 0 where it is not one line but how several go together
	Text string // the line
	Err  error
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("config: %v", e.Err)
	}
	return fmt.Sprintf("config line %d: %s: %s", e.Line, rc.Brief(e.Text, 200), rc.Brief(e.Err.Error(), 400))
}

// Unwrap makes the error a hypervisor.ErrInvalid besides what it wraps.
func (e *Error) Unwrap() []error { return []error{hypervisor.ErrInvalid, e.Err} }

// Parse returns the configuration that text sets, on top of Default. Nothing
// of an earlier configuration is kept.
func Parse(text string) (Config, error) { return Default().Merge(text) }

// Merge returns c with the settings of text on top: one KEY=VALUE a line, # to
// the end of a line a comment. A key with an empty value goes back to its
// default; a repeated key (disk, net, pci) adds one, and an empty value removes
// all. Where any line is wrong nothing is changed and the error names the line.
func (c Config) Merge(text string) (Config, error) {
	if err := checkText(text); err != nil {
		return c, &Error{Err: err}
	}
	n := c.clone()
	for i, line := range strings.Split(text, "\n") {
		if err := n.setLine(line); err != nil {
			return c, &Error{Line: i + 1, Text: strings.TrimSpace(line), Err: err}
		}
	}
	if err := n.check(); err != nil {
		return c, &Error{Err: err}
	}
	return n, nil
}

func (c *Config) setLine(line string) error {
	if err := checkLine(line); err != nil {
		return err
	}
	words, err := rc.Split(line)
	if err != nil || len(words) == 0 {
		return err
	}
	name, value, ok := strings.Cut(words[0], "=")
	if !ok {
		return errors.New("want KEY=VALUE")
	}
	k, err := find(name)
	if err != nil {
		return err
	}
	if len(words) > 1 {
		if !k.words {
			return fmt.Errorf("%s takes one value (one KEY=VALUE a line; quote a value with blanks: '%s=a b')", name, name)
		}
		value = strings.Join(append([]string{value}, words[1:]...), " ")
	}
	if err := checkValue(value); err != nil {
		return err
	}
	if value == "" {
		k.clear(c)
		return nil
	}
	return k.set(c, value)
}

// check finds settings that do not go together.
func (c *Config) check() error {
	vm := c.vm
	if c.AutoCID() {
		vm.VsockCID = hypervisor.MinVsockCID
	}
	if err := vm.Check(); err != nil {
		return err
	}
	if n := len(c.String()); n > MaxText {
		return fmt.Errorf("with this it would have %d bytes: a configuration can have %d", n, MaxText)
	}
	if s, ok := hypervisor.StarterFor(c.hv); ok {
		if ck, ok := s.(hypervisor.ConfigChecker); ok {
			return ck.CheckConfig(vm)
		}
	}
	return nil
}

// String returns the settings in the table's order, one a line, defaults that
// always hold (hypervisor, vcpus, memory) included. Parse gives the same Config
// back.
func (c Config) String() string {
	var b strings.Builder
	c.each(func(key, value string) {
		b.WriteString(key + "=" + rc.Quote(value) + "\n")
	})
	return b.String()
}

// each calls f with every key that is set.
func (c Config) each(f func(key, value string)) {
	for _, k := range table {
		for _, v := range k.get(&c) {
			f(k.Name, v)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(c.vm.Extras)) {
		f(key, c.vm.Extras[key])
	}
}

// Changed returns the keys whose values differ between two configurations, in
// the table's order.
func Changed(a, b Config) []string {
	values := func(c Config) map[string][]string {
		m := make(map[string][]string)
		c.each(func(k, v string) { m[k] = append(m[k], v) })
		return m
	}
	va, vb := values(a), values(b)
	var keys []string
	add := func(key string) {
		if !slices.Contains(keys, key) && !slices.Equal(va[key], vb[key]) {
			keys = append(keys, key)
		}
	}
	a.each(func(k, _ string) { add(k) })
	b.each(func(k, _ string) { add(k) })
	return keys
}

// Live reports whether the key can change while the VM runs.
func Live(name string) bool {
	k, err := find(name)
	return err == nil && k.Live
}
