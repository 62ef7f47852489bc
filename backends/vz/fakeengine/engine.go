package fakeengine

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"vmfs/backends/sim"
	"vmfs/backends/vz/shim"
	"vmfs/backends/vz/shimconfig"
)

// ReadyLine is what the guest prints when it is up.
const ReadyLine = sim.ReadyLine

// NoAgent is the word of the kernel's arguments of a guest without an agent.
const NoAgent = "noagent"

// A Config says how an Engine is; the zero value is the newest host there is, with VMs that
// do everything at once.
type Config struct {
	// Without lists what the host cannot do.
	Without []shimconfig.Feature
	// Version is the operating system's, "" for "26.0".
	Version string
	// BootTime and PowerOffTime are the guest's.
	BootTime, PowerOffTime time.Duration
	// Lag is how late the framework's state is behind what it says to be done.
	Lag time.Duration
}

// An Engine is the fake.
type Engine struct{ config Config }

var _ shim.Engine = (*Engine)(nil)

// New makes an Engine.
func New(c Config) *Engine { return &Engine{c} }

var features = []shimconfig.Feature{
	shimconfig.FeatureStop, shimconfig.FeatureEFI, shimconfig.FeatureMachine, shimconfig.FeatureSave, shimconfig.FeatureCaching,
	shimconfig.FeatureBridged, shimconfig.FeatureVsock, shimconfig.FeatureBalloon, shimconfig.FeatureNetFiles,
}

// Host tells what the host can do.
func (e *Engine) Host() (shimconfig.Host, error) {
	return shimconfig.Host{
		Engine: "fake", Version: cmp.Or(e.config.Version, "26.0"), Arch: runtime.GOARCH,
		Features: slices.DeleteFunc(slices.Clone(features), func(f shimconfig.Feature) bool { return slices.Contains(e.config.Without, f) }),
		MinCPUs:  1, MaxCPUs: 64, MinMemory: 4 << 20, MaxMemory: 1 << 46, Bridges: []string{"en0"},
	}, nil
}

func (e *Engine) needs(f shimconfig.Feature, what string) error {
	if slices.Contains(e.config.Without, f) {
		return fmt.Errorf("%s: this host's framework cannot: %w", what, errors.ErrUnsupported)
	}
	return nil
}

// Check validates a configuration as the framework does.
func (e *Engine) Check(c *shimconfig.Config) (shimconfig.Support, error) {
	if err := meet(c, CallCheck); err != nil {
		return shimconfig.Support{}, err
	}
	return e.check(c)
}

func (e *Engine) check(c *shimconfig.Config) (s shimconfig.Support, err error) {
	h, err := e.Host()
	if err != nil {
		return s, err
	}
	switch {
	case c.CPUs > h.MaxCPUs:
		return s, fmt.Errorf("%d virtual CPUs: the framework allows %d to %d", c.CPUs, h.MinCPUs, h.MaxCPUs)
	case c.Memory < h.MinMemory || c.Memory > h.MaxMemory:
		return s, fmt.Errorf("%d bytes of memory: the framework allows %d to %d", c.Memory, h.MinMemory, h.MaxMemory)
	}
	var files []string
	if l := c.Boot.Linux; l != nil {
		files = append(files, l.Kernel)
		if l.Initrd != "" {
			files = append(files, l.Initrd)
		}
	} else if err := e.needs(shimconfig.FeatureEFI, "EFI"); err != nil {
		return s, err
	}
	for _, d := range c.Disks {
		files = append(files, d.Path)
	}
	for _, path := range files {
		if _, err := os.Stat(path); err != nil {
			return s, err
		}
	}
	if c.Vsock != nil {
		if err := e.needs(shimconfig.FeatureVsock, "vsock"); err != nil {
			return s, err
		}
	}
	if err := e.needs(shimconfig.FeatureSave, "saving the machine's state"); err != nil {
		s.NoSave = err.Error()
	}
	for _, n := range c.Nets {
		switch n.Kind {
		case shimconfig.NetBridged:
			if err := e.needs(shimconfig.FeatureBridged, "bridged network"); err != nil {
				return s, err
			}
			if !slices.Contains(h.Bridges, n.Interface) {
				return s, fmt.Errorf("network %s: the host has no interface %s to bridge, only %s", n.MAC, n.Interface, strings.Join(h.Bridges, ", "))
			}
		case shimconfig.NetFile:
			s.NoSave = cmp.Or(s.NoSave, "a network of kind file cannot be saved")
		}
	}
	return s, nil
}

// New makes a VM.
func (e *Engine) New(c *shimconfig.Config, files shim.Files) (_ shim.Machine, err error) {
	defer func() {
		if err != nil {
			files.Close()
		}
	}()
	if err := meet(c, CallNew); err != nil {
		return nil, err
	}
	support, err := e.check(c)
	if err != nil {
		return nil, err
	}
	m := &Machine{
		engine: e, config: c, files: files, support: support, id: c.Machine, state: shim.StateStopped, can: shim.StateStopped,
		changes: make(chan shim.Change, changesRoom), ports: make(map[uint32]*listener),
	}
	if len(m.id) == 0 && e.needs(shimconfig.FeatureMachine, "") == nil {
		m.id = []byte("fake machine " + rand.Text())
	}
	return m, nil
}

// FaultFile is the name of the file that makes a call hang or fail.
func FaultFile(c Call) string { return "fault." + string(c) }

// meet lets the fault of a call happen.
func meet(c *shimconfig.Config, call Call) error {
	path := filepath.Join(filepath.Dir(c.Console.Socket), FaultFile(call))
	for {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil // there is none
		}
		if len(text) > 0 {
			return errors.New(string(text))
		}
		time.Sleep(5 * time.Millisecond)
	}
}
