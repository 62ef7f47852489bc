package machine

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"vmfs/backends/hypervisor"
	"vmfs/internal/durable"
	"vmfs/machine/config"
	"vmfs/machine/console"
	"vmfs/machine/events"
)

// Config returns the VM's configuration.
func (v *VM) Config() config.Config {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.cfg
}

// SetConfig changes the configuration, durably: by replacing it with text or by
// merging text into it. While the VM has a VMM only keys that can change live may
// differ, else the error is a hypervisor.ErrBusy that names the key and nothing
// is changed. A live change of memory sets the guest's target as well, and one of a
// disk's size makes it larger.
func (v *VM) SetConfig(ctx context.Context, text string, replace bool) error {
	return v.run(ctx, "set", v.host.opts.Timeouts.Verb, func(ctx context.Context) error {
		v.mu.Lock()
		old, broken := v.cfg, v.cfgErr != nil
		v.mu.Unlock()
		base := old
		if replace {
			base = v.host.defaultConfig()
		}
		cfg, err := base.Merge(text)
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		keys := config.Changed(old, cfg)
		if len(keys) == 0 && !broken {
			return nil
		}
		if s := v.liveSession(); s != nil {
			sizes, onlySizes := newSizes(old.VMConfig().Disks, cfg.VMConfig().Disks)
			for _, k := range keys {
				switch {
				case k == "disk" && onlySizes, config.Live(k):
				case k == "disk":
					return fmt.Errorf("of a disk only the size can change while %s runs, stop it first: %w", v.name, hypervisor.ErrBusy)
				default:
					return fmt.Errorf("%s cannot change while %s runs, stop it first: %w", k, v.name, hypervisor.ErrBusy)
				}
			}
			if err := v.growLive(ctx, s, old, sizes); err != nil {
				return err
			}
			if slices.Contains(keys, "memory") {
				if err := v.resizeLive(ctx, s, cfg.VMConfig().MemoryBytes, 0); err != nil {
					return err
				}
			}
		}
		if err := v.saveConfig(cfg); err != nil {
			return err
		}
		v.emit(events.Event{Kind: events.KindConfig, Detail: []hypervisor.Detail{{Key: "keys", Value: strings.Join(keys, ",")}}})
		return nil
	})
}

func (v *VM) saveConfig(cfg config.Config) error {
	v.disk.Lock()
	defer v.disk.Unlock()
	if err := durable.Replace(filepath.Join(v.dir, configFile), []byte(cfg.String())); err != nil {
		return fmt.Errorf("write config: %w", err)
	}
	v.update(func() {
		v.cfg, v.cfgErr = cfg, nil
		if v.session == nil {
			v.status.Backend = cfg.Type()
			v.status.MemoryTarget = cfg.VMConfig().MemoryBytes
		}
		if v.status.Reason == "config-unreadable" {
			v.setState(v.status.State, "")
		}
	})
	v.console.Use(v.consolePath())
	return nil
}

// vmConfig returns what a back end is given to start the VM.
func (v *VM) vmConfig(cfg config.Config) hypervisor.VMConfig {
	c := cfg.VMConfig()
	c.Name, c.UUID = v.name, v.UUID()
	c.LogPath = v.LogPath()
	c.SerialLogMax = console.MaxNamed
	if c.SerialLogPath == "" {
		c.SerialLogPath = filepath.Join(v.dir, consoleFile)
		c.SerialLogMax = console.MaxAlone
	}
	v.mu.Lock()
	c.VsockCID = v.cidIn(cfg)
	v.mu.Unlock()
	c.VsockSocket = v.vsockSocket(c)
	return c
}

// consolePath returns the file that the serial console's output goes to, and
// whether it is the VM's own or one that its configuration names.
func (v *VM) consolePath() (path string, own bool) {
	if p := v.Config().VMConfig().SerialLogPath; p != "" {
		return p, false
	}
	return filepath.Join(v.dir, consoleFile), true
}
