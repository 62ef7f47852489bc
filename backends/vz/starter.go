package vz

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"

	"vmfs/backends/hypervisor"
	"vmfs/backends/rundir"
	"vmfs/backends/starter"
	"vmfs/backends/vz/shimconfig"
)

// Config says how a Starter works. Its zero value is good.
type Config struct {
	// Binary is the program whose vz-shim it is where neither Paths nor the VM names one;
	// "" is this program.
	Binary string
	// Log gets what happens beside a call; nil is slog.Default().
	Log *slog.Logger
}

// A Starter starts vz-shims. It may be used by several goroutines.
type Starter struct {
	*starter.Starter[*VM, program]
	log    *slog.Logger
	checks checker
}

var (
	_ hypervisor.VMStarter      = (*Starter)(nil)
	_ hypervisor.ExtraChecker   = (*Starter)(nil)
	_ hypervisor.ConfigChecker  = (*Starter)(nil)
	_ hypervisor.Capable        = (*Starter)(nil)
	_ hypervisor.ConfigRestorer = (*Starter)(nil)
	_ hypervisor.OwnCID         = (*Starter)(nil)
)

// New makes a Starter. Nothing is registered by it.
func New(c Config) *Starter {
	s := &Starter{log: cmp.Or(c.Log, slog.Default())}
	s.Starter = starter.New(starter.Config[*VM, program]{
		Type: hypervisor.TypeVZ, VMM: "Virtualization.framework", Socket: SocketName, Settings: settingKeys,
		Dialer: func(socket string, _ int64) hypervisor.VsockDialer { return newDialer(socket) },
		Log:    s.log, Binary: c.Binary, Look: findProgram, Probe: probe,
		Find: s.find, Start: s.start, Restore: s.restore,
	})
	return s
}

// Register makes s the process's back end hypervisor.TypeVZ.
func (s *Starter) Register() { s.RegisterAs(s) }

// find makes the handle on the shim that serves socketPath.
func (s *Starter) find(ctx context.Context, socketPath string) (*VM, error) {
	dir, err := dirOf(socketPath)
	if err != nil {
		return nil, err
	}
	return s.connect(ctx, dir, rundir.Find[record](dir.Dir, s.log), nil)
}

// OwnCID says that the framework picks the guests' context IDs.
func (s *Starter) OwnCID() {}

// CheckConfig says what of a configuration the framework can never run.
func (s *Starter) CheckConfig(config hypervisor.VMConfig) error {
	if err := check(&config); err != nil {
		return fmt.Errorf("vz: %w", err)
	}
	return nil
}

// Capabilities is what a VM with this configuration can do on this host, as the framework
// says. Where that cannot be asked it can do nothing, since none will start.
func (s *Starter) Capabilities(config hypervisor.VMConfig) hypervisor.Capabilities {
	prog, err := s.Program(context.Background(), starter.Request{}, config) // it is bounded, and mostly known
	if err != nil {
		return hypervisor.Capabilities{}
	}
	var support shimconfig.Support
	if vm, err := shimConfig(runDir{}, &config); err == nil {
		// What cannot be made as it is now, for want of a file, says nothing of what can be.
		support, _ = s.checks.check(prog.Path, vm)
	}
	return capabilities(prog.host, support)
}

// capabilities are what the framework's own words come to.
func capabilities(host shimconfig.Host, support shimconfig.Support) hypervisor.Capabilities {
	return hypervisor.Capabilities{
		SupportsSnapshot:      host.Has(shimconfig.FeatureSave) && support.NoSave == "",
		SupportsHotplugMemory: host.Has(shimconfig.FeatureBalloon),
		SupportsPause:         true,
		SupportsVsock:         host.Has(shimconfig.FeatureVsock),
	}
}
