package qemu

import (
	"context"
	"fmt"
	"log/slog"

	"vmfs/backends/companion"
	"vmfs/backends/handle"
	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
	"vmfs/backends/qemu/vsockdev"
	"vmfs/backends/rundir"
	"vmfs/backends/serial"
)

// Config says how a Starter works. Its zero value is good.
type Config struct {
	// Binary is QEMU's program where neither Paths nor the VM names one; "" is the
	// one in PATH for this host's architecture.
	Binary string
	// Log gets what happens beside a call; nil is slog.Default().
	Log *slog.Logger
}

// A Starter starts QEMUs. It may be used by several goroutines.
type Starter struct {
	config Config
	log    *slog.Logger
	host   host
	probes process.Probes[program]
	// aside is whether the console is held by a process beside QEMU (package serial); it
	// is another in tests.
	aside bool
	// startDevice starts the vsock device of a VM, or finds it; it is another in tests.
	startDevice func(ctx context.Context, c vsockdev.Config, find bool) (*companion.Companion, error)
}

var (
	_ hypervisor.VMStarter      = (*Starter)(nil)
	_ hypervisor.ExtraChecker   = (*Starter)(nil)
	_ hypervisor.Capable        = (*Starter)(nil)
	_ hypervisor.ConfigRestorer = (*Starter)(nil)
)

// New makes a Starter. Nothing is registered by it.
func New(c Config) *Starter {
	s := &Starter{config: c, log: c.Log, host: thisHost, aside: serial.Supported, startDevice: startDevice}
	if s.log == nil {
		s.log = slog.Default()
	}
	return s
}

// Register makes s the process's back end hypervisor.TypeQEMU.
func (s *Starter) Register() {
	hypervisor.RegisterStarter(hypervisor.TypeQEMU, s)
	hypervisor.RegisterSocketName(hypervisor.TypeQEMU, s.SocketName())
	hypervisor.RegisterClientFactory(hypervisor.TypeQEMU, s.client)
	hypervisor.RegisterVsockDialerFactory(hypervisor.TypeQEMU, vsockDialer)
}

// client is the ClientFactory.
func (s *Starter) client(socketPath string) (hypervisor.Hypervisor, error) {
	vm, err := s.Open(socketPath)
	if err != nil {
		return nil, err
	}
	return vm, nil
}

// Open makes a handle on the QEMU that serves socketPath, whoever started it. It
// does not wait for QEMU to answer.
func (s *Starter) Open(socketPath string) (*VM, error) {
	dir, err := dirOf(socketPath)
	if err != nil {
		return nil, fmt.Errorf("qemu: open %s: %w", socketPath, err)
	}
	// Connecting to a Unix socket does not wait, but for a full backlog.
	ctx, cancel := context.WithTimeout(context.Background(), handle.AskTimeout)
	defer cancel()
	vm, err := s.connect(ctx, dir, rundir.Find[record](dir.Dir, s.log), nil)
	if err != nil {
		return nil, fmt.Errorf("qemu: open %s: %w", socketPath, err)
	}
	vm.adoptVsock()
	vm.adoptSerial()
	return vm, nil
}

// SocketName is the file name of the control socket.
func (s *Starter) SocketName() string { return SocketName }

// CheckExtra says whether a setting "qemu.…" exists and may have the value.
func (s *Starter) CheckExtra(key, value string) error {
	if err := settingKeys.Check(key, value); err != nil {
		return fmt.Errorf("qemu: %w", err)
	}
	return nil
}

// Capabilities is what a VM with this configuration can do on this host.
func (s *Starter) Capabilities(config hypervisor.VMConfig) hypervisor.Capabilities {
	return hypervisor.Capabilities{
		// Nothing can read the state of a device that is the guest's alone.
		SupportsSnapshot:       len(config.PCIDevices) == 0,
		SupportsHotplugMemory:  true,
		SupportsPause:          true,
		SupportsVsock:          vsockdev.Supported || s.host.exists(vhostVsock),
		SupportsGPUPassthrough: s.host.iommuUsed(),
		SupportsDiskIOLimit:    true,
	}
}

// binary returns what names QEMU's program, the most special setting first.
func (s *Starter) binary(p *hypervisor.Paths, set settings) string {
	switch {
	case set.binary != "":
		return set.binary
	case p.Binary(hypervisor.TypeQEMU) != "":
		return p.Binary(hypervisor.TypeQEMU)
	default:
		return s.config.Binary
	}
}

// GetBinaryPath returns QEMU's program, which has the version if one is given.
func (s *Starter) GetBinaryPath(p *hypervisor.Paths, version string) (string, error) {
	path, err := findProgram(s.binary(p, settings{}))
	if err != nil {
		return "", fmt.Errorf("qemu: %w", err)
	}
	if version != "" {
		prog, err := s.probes.Ask(context.Background(), path, probe)
		if err == nil {
			err = checkVersion(prog.version, version)
		}
		if err != nil {
			return "", fmt.Errorf("qemu: %w", err)
		}
	}
	return path, nil
}

// GetVersion asks QEMU's program for its version.
func (s *Starter) GetVersion(p *hypervisor.Paths) (string, error) {
	path, err := findProgram(s.binary(p, settings{}))
	if err == nil {
		var prog program
		if prog, err = s.probes.Ask(context.Background(), path, probe); err == nil {
			return prog.version, nil
		}
	}
	return "", fmt.Errorf("qemu: %w", err)
}
