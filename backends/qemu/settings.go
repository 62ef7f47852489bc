package qemu

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"vmfs/backends/hypervisor"
)

// settings are the extras of a VMConfig with this back end's prefix.
type settings struct {
	binary   string // qemu.binary: the program, by path or by name in PATH
	accel    string // qemu.accel: auto, kvm or tcg
	machine  string // qemu.machine: the machine type, such as q35 or pc-q35-7.2
	cpu      string // qemu.cpu: the CPU model with its features
	firmware string // qemu.firmware: the firmware's image instead of QEMU's own
	watchdog string // qemu.watchdog: adds a watchdog; what it does when it fires
}

const settingsPrefix = "qemu."

// settingKeys is every setting: where it goes, and the values it may have.
var settingKeys = map[string]struct {
	field  func(*settings) *string
	values []string // nil: any text
}{
	"qemu.accel":    {func(s *settings) *string { return &s.accel }, []string{accelAuto, accelKVM, accelTCG}},
	"qemu.binary":   {func(s *settings) *string { return &s.binary }, nil},
	"qemu.cpu":      {func(s *settings) *string { return &s.cpu }, nil},
	"qemu.firmware": {func(s *settings) *string { return &s.firmware }, nil},
	"qemu.machine":  {func(s *settings) *string { return &s.machine }, nil},
	"qemu.watchdog": {func(s *settings) *string { return &s.watchdog }, []string{"reset", "pause", "poweroff", "none"}},
}

// checkExtra says whether a setting exists and may have the value.
func checkExtra(key, value string) error {
	s, ok := settingKeys[key]
	if !ok {
		return fmt.Errorf("unknown setting %s (there are %s): %w", key,
			strings.Join(slices.Sorted(maps.Keys(settingKeys)), ", "), hypervisor.ErrInvalid)
	}
	if s.values != nil && !slices.Contains(s.values, value) {
		return fmt.Errorf("%s=%s: want one of %s: %w", key, value, strings.Join(s.values, ", "), hypervisor.ErrInvalid)
	}
	if value == "" || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fmt.Errorf("%s=%q: want a text without control characters: %w", key, value, hypervisor.ErrInvalid)
	}
	return nil
}

// settingsOf reads the extras that are for this back end.
func settingsOf(extras map[string]string) (settings, error) {
	var s settings
	for _, key := range slices.Sorted(maps.Keys(extras)) {
		if !strings.HasPrefix(key, settingsPrefix) {
			continue
		}
		if err := checkExtra(key, extras[key]); err != nil {
			return settings{}, err
		}
		*settingKeys[key].field(&s) = extras[key]
	}
	return s, nil
}
