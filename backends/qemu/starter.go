package qemu

import (
	"cmp"
	"context"
	"log/slog"

	"vmfs/backends/companion"
	"vmfs/backends/hypervisor"
	"vmfs/backends/qemu/vsockdev"
	"vmfs/backends/rundir"
	"vmfs/backends/serial"
	"vmfs/backends/starter"
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
	*starter.Starter[*VM, program]
	log  *slog.Logger
	host host
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
	s := &Starter{log: cmp.Or(c.Log, slog.Default()), host: thisHost, aside: serial.Supported, startDevice: startDevice}
	s.Starter = starter.New(starter.Config[*VM, program]{
		Type: hypervisor.TypeQEMU, VMM: "QEMU", Socket: SocketName, Settings: settingKeys, Dialer: vsockDialer,
		Plain: plain, Log: s.log, Binary: c.Binary, Look: findProgram, Probe: probe,
		Find: s.find, Start: s.start, Restore: s.restore,
	})
	return s
}

// Register makes s the process's back end hypervisor.TypeQEMU.
func (s *Starter) Register() { s.RegisterAs(s) }

// find makes the handle on the QEMU that serves socketPath.
func (s *Starter) find(ctx context.Context, socketPath string) (*VM, error) {
	dir, err := dirOf(socketPath)
	if err != nil {
		return nil, err
	}
	vm, err := s.connect(ctx, dir, rundir.Find[record](dir.Dir, s.log), nil)
	if err != nil {
		return nil, err
	}
	vm.adoptVsock()
	vm.adoptSerial()
	return vm, nil
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
