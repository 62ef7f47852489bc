package cloudhypervisor

import (
	"cmp"
	"context"
	"log/slog"

	"vmfs/backends/hostpci"
	"vmfs/backends/hypervisor"
	"vmfs/backends/rundir"
	"vmfs/backends/starter"
	"vmfs/vsock"
)

// Config says how a Starter works. Its zero value is good.
type Config struct {
	// Binary is Cloud Hypervisor's program where neither Paths nor the VM names one; "" is
	// what $VMFS_CLOUD_HYPERVISOR says, else the one in PATH.
	Binary string
	// Log gets what happens beside a call; nil is slog.Default().
	Log *slog.Logger
}

// A Starter starts Cloud Hypervisors. It may be used by several goroutines.
type Starter struct {
	*starter.Starter[*VM, starter.Program]
	log       *slog.Logger
	pciUsable func() bool // is another in tests
	canFault  func() bool // is another in tests
}

var (
	_ hypervisor.VMStarter      = (*Starter)(nil)
	_ hypervisor.ExtraChecker   = (*Starter)(nil)
	_ hypervisor.ConfigChecker  = (*Starter)(nil)
	_ hypervisor.Capable        = (*Starter)(nil)
	_ hypervisor.ConfigRestorer = (*Starter)(nil)
)

// New makes a Starter. Nothing is registered by it.
func New(c Config) *Starter {
	s := &Starter{log: cmp.Or(c.Log, slog.Default()), pciUsable: hostpci.Usable, canFault: canFault}
	s.Starter = starter.New(starter.Config[*VM, starter.Program]{
		Type: hypervisor.TypeCloudHypervisor, VMM: "Cloud Hypervisor", Socket: SocketName, Settings: settingKeys,
		Dialer: func(socket string, _ int64) hypervisor.VsockDialer { return &vsock.Hybrid{Socket: socket} },
		Plain:  plain, Log: s.log, Binary: c.Binary, Look: findProgram, Probe: probe,
		Find: s.find, Start: s.start, Restore: s.restore,
	})
	return s
}

// Register makes s the process's back end hypervisor.TypeCloudHypervisor.
func (s *Starter) Register() { s.RegisterAs(s) }

// find makes the handle on the Cloud Hypervisor that serves socketPath.
func (s *Starter) find(ctx context.Context, socketPath string) (*VM, error) {
	dir, err := dirOf(socketPath)
	if err != nil {
		return nil, err
	}
	rec := rundir.Find[record](dir.Dir, s.log)
	vm, err := s.connect(ctx, dir, rec, nil)
	if err == nil && rec != nil {
		vm.Spawn(func() { vm.keepSerial(nil) })
	}
	return vm, err
}

// Capabilities is what a VM with this configuration can do on this host.
func (s *Starter) Capabilities(config hypervisor.VMConfig) hypervisor.Capabilities {
	return hypervisor.Capabilities{
		SupportsSnapshot:       unsaveable(&config) == nil,
		SupportsHotplugMemory:  true,
		SupportsPause:          true,
		SupportsVsock:          true,
		SupportsGPUPassthrough: s.pciUsable(),
		SupportsDiskIOLimit:    true,
	}
}
