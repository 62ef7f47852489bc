package vz

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
	"vmfs/backends/rundir"
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
	config Config
	log    *slog.Logger
	probes process.Probes[shimconfig.Host]
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
	s := &Starter{config: c, log: c.Log}
	if s.log == nil {
		s.log = slog.Default()
	}
	return s
}

// Register makes s the process's back end hypervisor.TypeVZ.
func (s *Starter) Register() {
	hypervisor.RegisterStarter(hypervisor.TypeVZ, s)
	hypervisor.RegisterSocketName(hypervisor.TypeVZ, s.SocketName())
	hypervisor.RegisterClientFactory(hypervisor.TypeVZ, s.client)
	hypervisor.RegisterVsockDialerFactory(hypervisor.TypeVZ, func(socket string, _ int64) hypervisor.VsockDialer {
		return newDialer(socket)
	})
}

// client is the ClientFactory.
func (s *Starter) client(socketPath string) (hypervisor.Hypervisor, error) {
	vm, err := s.Open(socketPath)
	if err != nil {
		return nil, err
	}
	return vm, nil
}

// Open makes a handle on the shim that serves socketPath, whoever started it. It does not
// wait for it to answer.
func (s *Starter) Open(socketPath string) (*VM, error) {
	fail := func(err error) (*VM, error) { return nil, fmt.Errorf("vz: open %s: %w", socketPath, err) }
	dir, err := dirOf(socketPath)
	if err != nil {
		return fail(err)
	}
	rec := rundir.Find[record](dir.Dir, s.log)
	// Connecting to a Unix socket does not wait, but for a full backlog.
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	vm, err := s.connect(ctx, dir, rec, nil)
	if err != nil {
		return fail(err)
	}
	return vm, nil
}

// askTimeout bounds what the handle itself asks.
const askTimeout = 5 * time.Second

// SocketName is the file name of the control socket.
func (s *Starter) SocketName() string { return SocketName }

// CheckExtra says whether a setting "vz.…" exists and may have the value.
func (s *Starter) CheckExtra(key, value string) error {
	if err := settingKeys.Check(key, value); err != nil {
		return fmt.Errorf("vz: %w", err)
	}
	return nil
}

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
	path, err := findProgram(s.binary(nil, config))
	if err != nil {
		return hypervisor.Capabilities{}
	}
	host, err := s.host(context.Background(), path) // it is bounded, and mostly known
	if err != nil {
		return hypervisor.Capabilities{}
	}
	var support shimconfig.Support
	if vm, err := shimConfig(runDir{}, &config); err == nil {
		// What cannot be made as it is now, for want of a file, says nothing of what can be.
		support, _ = s.checks.check(path, vm)
	}
	return capabilities(host, support)
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

// GetBinaryPath returns the program, on a host of the version if one is given.
func (s *Starter) GetBinaryPath(p *hypervisor.Paths, version string) (string, error) {
	path, err := findProgram(s.binary(p, hypervisor.VMConfig{}))
	if err == nil && version != "" {
		var h shimconfig.Host
		if h, err = s.host(context.Background(), path); err == nil {
			err = checkVersion(h.Version, version)
		}
	}
	if err != nil {
		return "", fmt.Errorf("vz: %w", err)
	}
	return path, nil
}

// GetVersion is that of the host's framework, which is the operating system's.
func (s *Starter) GetVersion(p *hypervisor.Paths) (string, error) {
	path, err := findProgram(s.binary(p, hypervisor.VMConfig{}))
	if err == nil {
		var h shimconfig.Host
		if h, err = s.host(context.Background(), path); err == nil {
			return h.Version, nil
		}
	}
	return "", fmt.Errorf("vz: %w", err)
}

// OwnCID says that the framework picks the guests' context IDs.
func (s *Starter) OwnCID() {}
