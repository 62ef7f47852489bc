package sim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"vmfs/backends/disk"
	"vmfs/backends/hypervisor"
	"vmfs/backends/stored"
	"vmfs/internal/wait"
)

// Version is the version of the simulated VMM, and the only one there is.
const Version = "1"

// Config says how the VMs of a Starter are; the zero value is a world of its
// own with VMs that do everything at once.
type Config struct {
	// World is where the VMs live; nil is a new one.
	World *World
	// BootTime is from the start of a guest to its ready line.
	BootTime time.Duration
	// PowerOffTime is from the power button to the guest's end.
	PowerOffTime time.Duration
	// Linger lets the VMM stay when the guest has ended.
	Linger bool
	// Without lists what VMs cannot do: pause, snapshot, memory, vsock.
	Without []string
	// Faults are those that every VM starts with.
	Faults []Fault
}

// A Starter starts simulated VMs.
type Starter struct{ config Config }

var (
	_ hypervisor.VMStarter      = (*Starter)(nil)
	_ hypervisor.ConfigRestorer = (*Starter)(nil)
)

// New makes a Starter. Nothing is registered by it.
func New(c Config) *Starter {
	if c.World == nil {
		c.World = NewWorld()
	}
	return &Starter{config: c}
}

// Register registers a back end as it is for people: with a world of its own
// and a guest that takes moments to boot and to power off.
func Register() *Starter {
	s := New(Config{BootTime: 50 * time.Millisecond, PowerOffTime: 100 * time.Millisecond})
	s.Register()
	return s
}

// Register makes s and its World the process's back end hypervisor.TypeSim.
func (s *Starter) Register() {
	hypervisor.RegisterStarter(hypervisor.TypeSim, s)
	hypervisor.RegisterSocketName(hypervisor.TypeSim, s.SocketName())
	hypervisor.RegisterClientFactory(hypervisor.TypeSim, s.World().Client)
	hypervisor.RegisterVsockDialerFactory(hypervisor.TypeSim, s.World().Dialer)
}

// World returns where the VMs of s live.
func (s *Starter) World() *World { return s.config.World }

// SocketName is the name of a socket that never is in the file system.
func (s *Starter) SocketName() string { return "sim.sock" }

// GetBinaryPath returns the program of this process.
func (s *Starter) GetBinaryPath(_ *hypervisor.Paths, version string) (string, error) {
	if err := checkVersion(version); err != nil {
		return "", fmt.Errorf("sim: %w", err)
	}
	path, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("sim: %w", err)
	}
	return path, nil
}

// GetVersion returns Version.
func (s *Starter) GetVersion(*hypervisor.Paths) (string, error) { return Version, nil }

func checkVersion(version string) error {
	if version != "" && version != Version {
		return fmt.Errorf("there is no version %q, only %s: %w", version, Version, hypervisor.ErrInvalid)
	}
	return nil
}

// StartVM starts a VM; see the package's documentation for its guest and for
// the settings in config.Extras.
func (s *Starter) StartVM(ctx context.Context, _ *hypervisor.Paths, version, socketPath string, config hypervisor.VMConfig) (int, hypervisor.Hypervisor, error) {
	h, err := s.start(ctx, version, socketPath, config, nil)
	if err != nil {
		return 0, nil, fmt.Errorf("sim: start %s: %w", nameOf(config, socketPath), err)
	}
	return 0, h, nil
}

// RestoreVM starts the VM that Snapshot wrote to snapshotPath, with the
// configuration it had then: the original must have ended, since both have one
// vsock and one serial log.
func (s *Starter) RestoreVM(ctx context.Context, _ *hypervisor.Paths, version, socketPath, snapshotPath string) (int, hypervisor.Hypervisor, error) {
	return s.restore(ctx, version, socketPath, snapshotPath, nil)
}

// RestoreVMWith is RestoreVM with another configuration laid over that; see
// hypervisor.ConfigRestorer.
func (s *Starter) RestoreVMWith(ctx context.Context, _ *hypervisor.Paths, version, socketPath, snapshotPath string, config hypervisor.VMConfig) (int, hypervisor.Hypervisor, error) {
	return s.restore(ctx, version, socketPath, snapshotPath, &config)
}

func (s *Starter) restore(ctx context.Context, version, socketPath, snapshotPath string, over *hypervisor.VMConfig) (int, hypervisor.Hypervisor, error) {
	m, err := readSnapshot(snapshotPath)
	if err == nil && over != nil {
		m.Config.VMConfig, err = stored.Lay(m.Config.VMConfig, *over)
	}
	if err != nil {
		return 0, nil, fmt.Errorf("sim: restore %s: %w", socketPath, err)
	}
	h, err := s.start(ctx, version, socketPath, m.Config.VMConfig, m)
	if err != nil {
		return 0, nil, fmt.Errorf("sim: restore %s from %s: %w", nameOf(m.Config.VMConfig, socketPath), snapshotPath, err)
	}
	return 0, h, nil
}

// start brings a VM into being, from a snapshot where m is not nil.
func (s *Starter) start(ctx context.Context, version, socketPath string, config hypervisor.VMConfig, m *manifest) (*Handle, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := checkVersion(version); err != nil {
		return nil, err
	}
	if socketPath == "" {
		return nil, fmt.Errorf("no socket path: %w", hypervisor.ErrInvalid)
	}
	socketPath, err := filepath.Abs(socketPath)
	if err != nil {
		return nil, err
	}
	set, err := settingsOf(s.config, config.Extras)
	if err != nil {
		return nil, err
	}
	if err := s.begin(ctx, &config, set, m == nil); err != nil {
		// As a VMM does, say it in the log too, where that can be written.
		_ = appendFile(config.LogPath, "sim: "+err.Error()+"\n")
		return nil, err
	}
	vm := newVM(s.World(), socketPath, config, set)
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if err := vm.world.add(vm); err != nil {
		return nil, err
	}
	h := vm.newHandle()
	// What lasts is there before the guest begins; what happens, happens to it.
	var events []Fault
	for _, f := range set.faults {
		switch rule := faultKinds[f.Kind]; {
		case rule.start:
		case rule.argument == delayArgument && f.Verb == "":
			events = append(events, f)
		default:
			vm.strike(f)
		}
	}
	if m == nil {
		vm.start()
	} else {
		vm.restore(m)
	}
	for _, f := range events {
		if !vm.gone {
			vm.strike(f)
		}
	}
	return h, nil
}

// begin does what can fail of a start. A fresh VM is none of a snapshot.
func (s *Starter) begin(ctx context.Context, config *hypervisor.VMConfig, set settings, fresh bool) error {
	if err := checkConfig(config, set.caps); err != nil {
		return err
	}
	if fresh {
		if err := disk.Fit(ctx, config.Disks); err != nil {
			return err
		}
	}
	if err := checkFiles(config); err != nil {
		return err
	}
	for _, f := range set.faults {
		switch f.Kind {
		case FaultStartFail:
			return f.err()
		case FaultStartHang:
			<-ctx.Done()
			return ctx.Err()
		case FaultSlowStart:
			if err := wait.For(ctx, f.Delay); err != nil {
				return err
			}
		}
	}
	if err := appendFile(config.LogPath, fmt.Sprintf("sim %s: %s starts\n", Version, config.Name)); err != nil {
		return err
	}
	return appendFile(config.SerialLogPath, "")
}

// appendFile adds text to a file; "" as the path is no file. No file stays open:
// a thousand VMs need no descriptors.
func appendFile(path, text string) error {
	if path == "" {
		return nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

func nameOf(c hypervisor.VMConfig, socketPath string) string {
	if c.Name != "" {
		return c.Name
	}
	return socketPath
}
