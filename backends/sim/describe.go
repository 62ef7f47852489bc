package sim

import (
	"fmt"

	"vmfs/backends/hypervisor"
)

var (
	_ hypervisor.Capable      = (*Starter)(nil)
	_ hypervisor.ExtraChecker = (*Starter)(nil)
)

// Capabilities returns what a VM with this configuration can do.
func (s *Starter) Capabilities(config hypervisor.VMConfig) hypervisor.Capabilities {
	set, err := settingsOf(s.config, config.Extras)
	if err != nil {
		return hypervisor.Capabilities{} // no VM will start
	}
	return set.caps
}

// CheckExtra returns an error for a setting that StartVM would refuse.
func (s *Starter) CheckExtra(key, value string) error {
	if _, err := settingsOf(s.config, map[string]string{key: value}); err != nil {
		return fmt.Errorf("sim: %w", err)
	}
	return nil
}
