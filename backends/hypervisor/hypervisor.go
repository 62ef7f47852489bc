package hypervisor

import (
	"context"
	"slices"
	"time"
)

// A Type names a back end, in configurations and in the registry.
type Type string

// The back ends of vmfs.
const (
	TypeQEMU            Type = "qemu"
	TypeCloudHypervisor Type = "cloud-hypervisor"
	TypeVZ              Type = "vz"
	TypeSim             Type = "sim"
)

// KnownTypes lists them, in the order in which people are shown them. A program has those
// that it registers, see Types.
func KnownTypes() []Type { return []Type{TypeQEMU, TypeCloudHypervisor, TypeVZ, TypeSim} }

// A VMState is what a VM is doing. There are four; why it does so is
// [VMInfo.Reason].
type VMState string

const (
	// StateCreated is a VM whose guest has not run since it was made.
	StateCreated VMState = "created"
	// StateRunning is a VM whose virtual CPUs run.
	StateRunning VMState = "running"
	// StatePaused is a VM that exists with its memory while its virtual CPUs
	// stand still: paused by a command, or because the guest panicked, or
	// because the VMM met an I/O or internal error.
	StatePaused VMState = "paused"
	// StateShutdown is a VM that ran and whose guest or VMM has ended.
	StateShutdown VMState = "shutdown"
)

// VMInfo is what a VMM says of its VM at one moment.
type VMInfo struct {
	State VMState
	// MemoryActualSize is the memory in bytes that the guest has now: the base,
	// less what the balloon holds, plus hot-plugged memory. It is nil where the
	// VMM does not know.
	MemoryActualSize *int64
	// Reason says why the VM is in State where that is not simply what was asked
	// for, as one word: "guest-panicked", "io-error", "internal-error",
	// "watchdog", "guest-shutdown", and so on. Each back end documents its words.
	Reason string
}

// Capabilities says what a back end can do for a VM. Every field agrees with
// the methods: a call whose capability is false returns an error that is
// ErrNotSupported and changes nothing.
type Capabilities struct {
	SupportsSnapshot       bool // Snapshot and VMStarter.RestoreVM
	SupportsHotplugMemory  bool // ResizeMemory and ResizeMemoryAndWait
	SupportsPause          bool // Pause and Resume
	SupportsVsock          bool // a VM with a vsock device
	SupportsGPUPassthrough bool // VMConfig.PCIDevices
	SupportsDiskIOLimit    bool // DiskConfig.IOBps and IOBurstBps
}

// A Capability is the name of one field of Capabilities, as the capabilities file
// of a VM shows it.
type Capability string

// The capabilities, in the order in which they are shown.
const (
	CanPause          Capability = "pause"
	CanSnapshot       Capability = "snapshot"
	CanHotplugMemory  Capability = "memory"
	CanVsock          Capability = "vsock"
	CanGPUPassthrough Capability = "pci"
	CanDiskIOLimit    Capability = "disk-io-limit"
)

// capabilities names every field of Capabilities.
var capabilities = []struct {
	Capability
	has func(Capabilities) bool
}{
	{CanPause, func(c Capabilities) bool { return c.SupportsPause }},
	{CanSnapshot, func(c Capabilities) bool { return c.SupportsSnapshot }},
	{CanHotplugMemory, func(c Capabilities) bool { return c.SupportsHotplugMemory }},
	{CanVsock, func(c Capabilities) bool { return c.SupportsVsock }},
	{CanGPUPassthrough, func(c Capabilities) bool { return c.SupportsGPUPassthrough }},
	{CanDiskIOLimit, func(c Capabilities) bool { return c.SupportsDiskIOLimit }},
}

// Has reports whether the capability holds.
func (c Capabilities) Has(k Capability) bool { return slices.Contains(c.Words(), k) }

// Words returns the capabilities that hold, in a fixed order.
func (c Capabilities) Words() []Capability {
	var words []Capability
	for _, k := range capabilities {
		if k.has(c) {
			words = append(words, k.Capability)
		}
	}
	return words
}

// A Hypervisor controls one VM of one VMM.
//
// Every method obeys its context: it returns soon after the context ends, with
// an error that wraps the context's, whether or not the VMM answers. A method
// that fails leaves the VM as it was, or in a state that GetVMInfo tells.
// Methods may be called at the same time from several goroutines.
//
// Once the VMM is gone every method returns an error that is
// ErrHypervisorNotRunning.
type Hypervisor interface {
	// DeleteVM asks the guest to shut down, as the power button of a machine
	// does. It returns when the guest has been asked: the guest may take its
	// time or not listen.
	DeleteVM(ctx context.Context) error

	// Shutdown ends the VMM in an orderly way, whatever the guest does. It
	// returns when the VMM has taken the order.
	Shutdown(ctx context.Context) error

	// GetVMInfo asks the VMM how the VM is.
	GetVMInfo(ctx context.Context) (*VMInfo, error)

	// Pause stops the virtual CPUs. When it returns nil they stand still.
	// Pausing a paused VM is no error.
	Pause(ctx context.Context) error

	// Resume lets the virtual CPUs go on. Resuming a running VM is no error.
	Resume(ctx context.Context) error

	// Snapshot writes all that RestoreVM needs into the directory destPath. The
	// VM is in the same state after it as before.
	Snapshot(ctx context.Context, destPath string) error

	// ResizeMemory sets the guest's memory target in bytes. It returns when the
	// VMM has taken the target; the guest may follow later, or never.
	ResizeMemory(ctx context.Context, bytes int64) error

	// ResizeMemoryAndWait is ResizeMemory, and waits until the guest's actual
	// size is the target or the closest step to it. At the timeout it returns
	// a *ResizeError with both numbers, which is context.DeadlineExceeded.
	ResizeMemoryAndWait(ctx context.Context, bytes int64, timeout time.Duration) error

	// Capabilities tells what of the above works for this VM. It does not block.
	Capabilities() Capabilities
}

// Paths says where a back end finds its programs on this host.
type Paths struct {
	// Binaries names the VMM's program by back end; one that is missing here is
	// looked for in PATH.
	Binaries map[Type]string
}

// Binary returns the program set for the back end t, or "". A nil p has none.
func (p *Paths) Binary(t Type) string {
	if p == nil {
		return ""
	}
	return p.Binaries[t]
}

// A VMStarter brings VMs of one back end into being.
//
// The directory of socketPath is the VM's own run-time directory: a back end
// puts its sockets there and nowhere else, and clears away at a start what an
// earlier VMM left of them. The VMM is started in a session of its own with no
// connection to the server but its sockets, so that it outlives the server.
type VMStarter interface {
	// SocketName is the file name of the control socket.
	SocketName() string

	// GetBinaryPath returns the VMM's program, for the version given ("" is
	// whichever there is).
	GetBinaryPath(p *Paths, version string) (string, error)

	// GetVersion asks the VMM's program for its version.
	GetVersion(p *Paths) (string, error)

	// StartVM starts a VMM with the VM that config describes, running. When it
	// fails no process and no socket is left, and the error carries what the VMM
	// itself said.
	//
	// A server that dies within StartVM leaves either no process, or one that a
	// ClientFactory reaches by socketPath.
	StartVM(ctx context.Context, p *Paths, version, socketPath string, config VMConfig) (pid int, hv Hypervisor, err error)

	// RestoreVM starts a VMM with the VM that was written to snapshotPath by
	// Snapshot. The VM is paused.
	RestoreVM(ctx context.Context, p *Paths, version, socketPath, snapshotPath string) (pid int, hv Hypervisor, err error)
}
