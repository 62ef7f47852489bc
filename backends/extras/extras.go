// Package extras reads the settings of one back end only, which a VM's configuration
// has as VMConfig.Extras: a table says which there are, and what they can be.
//
// The package imports the standard library and package hypervisor.
package extras

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"vmfs/backends/hypervisor"
)

// A Table has every setting of a back end by its whole key ("qemu.accel"), with the
// values that it can have; nil is any text.
type Table map[string][]string

// Check says whether a setting exists and may have the value.
func (t Table) Check(key, value string) error {
	values, ok := t[key]
	if !ok {
		return fmt.Errorf("unknown setting %s (there are %s): %w", key,
			strings.Join(slices.Sorted(maps.Keys(t)), ", "), hypervisor.ErrInvalid)
	}
	if values != nil && !slices.Contains(values, value) {
		return fmt.Errorf("%s=%s: want one of %s: %w", key, value, strings.Join(values, ", "), hypervisor.ErrInvalid)
	}
	if value == "" || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fmt.Errorf("%s=%q: want a text without control characters: %w", key, value, hypervisor.ErrInvalid)
	}
	return nil
}

// CheckAll checks the extras whose key has the prefix. Others are not for this back end.
func (t Table) CheckAll(prefix string, extras map[string]string) error {
	for _, key := range slices.Sorted(maps.Keys(extras)) {
		if strings.HasPrefix(key, prefix) {
			if err := t.Check(key, extras[key]); err != nil {
				return err
			}
		}
	}
	return nil
}
