package cloudhypervisor

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"

	"vmfs/backends/handle"
	"vmfs/backends/hostpci"
	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
	"vmfs/backends/rundir"
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
	config    Config
	log       *slog.Logger
	probes    process.Probes[program]
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
	s := &Starter{config: c, log: c.Log, pciUsable: hostpci.Usable, canFault: canFault}
	if s.log == nil {
		s.log = slog.Default()
	}
	return s
}

// Register makes s the process's back end hypervisor.TypeCloudHypervisor.
func (s *Starter) Register() {
	hypervisor.RegisterStarter(hypervisor.TypeCloudHypervisor, s)
	hypervisor.RegisterSocketName(hypervisor.TypeCloudHypervisor, s.SocketName())
	hypervisor.RegisterClientFactory(hypervisor.TypeCloudHypervisor, s.client)
	hypervisor.RegisterVsockDialerFactory(hypervisor.TypeCloudHypervisor, func(socket string, _ int64) hypervisor.VsockDialer {
		return &vsock.Hybrid{Socket: socket}
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

// Open makes a handle on the Cloud Hypervisor that serves socketPath, whoever started it. It
// does not wait for it to answer.
func (s *Starter) Open(socketPath string) (*VM, error) {
	fail := func(err error) (*VM, error) { return nil, fmt.Errorf("cloud-hypervisor: open %s: %w", socketPath, err) }
	dir, err := dirOf(socketPath)
	if err != nil {
		return fail(err)
	}
	// Connecting to a Unix socket does not wait, but for a full backlog.
	ctx, cancel := context.WithTimeout(context.Background(), handle.AskTimeout)
	defer cancel()
	rec := rundir.Find[record](dir.Dir, s.log)
	vm, err := s.connect(ctx, dir, rec, nil)
	if err != nil {
		return fail(err)
	}
	if rec != nil {
		vm.Spawn(func() { vm.keepSerial(nil) })
	}
	return vm, nil
}

// SocketName is the file name of the control socket.
func (s *Starter) SocketName() string { return SocketName }

// CheckExtra says whether a setting "cloud-hypervisor.…" exists and may have the value.
func (s *Starter) CheckExtra(key, value string) error {
	if err := settingKeys.Check(key, value); err != nil {
		return fmt.Errorf("cloud-hypervisor: %w", err)
	}
	return nil
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

// GetBinaryPath returns Cloud Hypervisor's program, which has the version if one is given.
func (s *Starter) GetBinaryPath(p *hypervisor.Paths, version string) (string, error) {
	path, err := findProgram(s.binary(p, hypervisor.VMConfig{}))
	if err == nil && version != "" {
		_, err = s.program(context.Background(), path, version)
	}
	if err != nil {
		return "", fmt.Errorf("cloud-hypervisor: %w", err)
	}
	return path, nil
}

// GetVersion asks Cloud Hypervisor's program for its version. One that is too old is an error
// that says which it is.
func (s *Starter) GetVersion(p *hypervisor.Paths) (string, error) {
	path, err := findProgram(s.binary(p, hypervisor.VMConfig{}))
	if err == nil {
		var prog program
		if prog, err = s.program(context.Background(), path, ""); err == nil {
			return prog.version, nil
		}
	}
	return "", fmt.Errorf("cloud-hypervisor: %w", err)
}

// binary returns what names the program, the most special setting first.
func (s *Starter) binary(p *hypervisor.Paths, config hypervisor.VMConfig) string {
	return cmp.Or(config.Extras[keyBinary], p.Binary(hypervisor.TypeCloudHypervisor), s.config.Binary)
}

// program asks the program at path what it is, which is to be of a version, or of any.
func (s *Starter) program(ctx context.Context, path, version string) (program, error) {
	prog, err := s.probes.Ask(ctx, path, probe)
	if err == nil {
		err = checkVersion(prog.version, version)
	}
	return prog, err
}
