package hypervisor

import (
	"context"
	"io"
	"net"
	"strconv"
	"time"

	"strings"
)

// What follows is optional: a Hypervisor that can do it implements the
// one-method interface, one that cannot does not. Callers ask by type
// assertion.

// EventSource is a Hypervisor that tells what happens to its VM.
type EventSource interface {
	// Events returns the channel of this handle's events, in the order they
	// happened, starting with the handle's creation. There is one consumer, who
	// must keep receiving: one who is so slow that events had to be dropped gets
	// an EventLost in their place. The channel is closed when the VMM is gone or
	// the handle is closed.
	Events() <-chan Event
}

// Resetter is a Hypervisor that can reset its VM as a reset button does.
type Resetter interface {
	Reset(ctx context.Context) error
}

// NMIInjector is a Hypervisor that can send its guest a non-maskable interrupt, as
// the button of that name on a server does. What the guest makes of it is its own
// affair: Linux says so on its console, or panics if it is told to. A guest that does
// not run may never get it.
type NMIInjector interface {
	InjectNMI(ctx context.Context) error
}

// DiskGrower is a Hypervisor that can make a disk larger while the guest runs.
type DiskGrower interface {
	// GrowDisk gives the disk that is number index in VMConfig.Disks the size: its image,
	// and what the guest sees of it. The size that it has is no error; a smaller one is
	// an ErrInvalid, and nothing is changed.
	GrowDisk(ctx context.Context, index int, bytes int64) error
}

// Console is a Hypervisor with a serial console that can be talked to.
type Console interface {
	// OpenConsole connects to the console. What the guest prints from now on is
	// read, what is written the guest reads. One connection at a time: a second
	// OpenConsole may fail or wait until the first is closed. Output is not lost
	// for want of a connection: it is in VMConfig.SerialLogPath.
	OpenConsole(ctx context.Context) (io.ReadWriteCloser, error)
}

// Drainer is a connection to a console that knows whether the VMM has taken all
// that was written to it. Then it can be closed without a loss, and it should be:
// nobody has to read for the guest to go on where nobody is connected.
type Drainer interface {
	// Drained does not wait. False may mean that it is not known.
	Drained() bool
}

// Identifier is a Hypervisor that can say which VM it controls, so that a
// server that finds a socket after a restart knows whose it is.
type Identifier interface {
	Identify(ctx context.Context) (Identity, error)
}

// Identity is whose VMM answers on a socket.
type Identity struct {
	Name string // VMConfig.Name
	UUID string // VMConfig.UUID
	// PID is the VMM's process, 0 where the VMM is not a process of its own.
	PID int
}

// Killer is a Hypervisor whose VMM is not a process of its own, so that it
// cannot be ended by a signal. Kill ends it at once and without a word.
type Killer interface {
	Kill(ctx context.Context) error
}

// A Describer is a Hypervisor that has more to say of how its VM runs than VMInfo.
type Describer interface {
	// Describe returns keys and values for the VM's info file, in order. They begin
	// with a lower-case letter, and are the same for as long as the handle is there. It
	// does not wait.
	Describe() []Detail
}

// An EventKind says what happened, as one word.
type EventKind string

// The kinds of events. A back end reports those it can; State in the event
// says what the VM does after it.
const (
	EventRunning   EventKind = "running"   // the virtual CPUs run
	EventPaused    EventKind = "paused"    // the virtual CPUs stand still; Reason says why if not by command
	EventReset     EventKind = "reset"     // the VM was reset, by the guest or by command
	EventPowerdown EventKind = "powerdown" // the guest was asked to power off
	EventShutdown  EventKind = "shutdown"  // the guest has ended; Reason says how
	EventPanicked  EventKind = "panicked"  // the guest says that it crashed
	EventWatchdog  EventKind = "watchdog"  // a watchdog device fired
	EventIOError   EventKind = "io-error"  // a disk failed
	EventMemory    EventKind = "memory"    // the guest's memory changed; detail "actual"
	EventNetwork   EventKind = "network"   // a network device has lost what was behind it
	// EventSnapshot tells how far a snapshot that is being written has come: detail
	// "done", "total" (bytes) and "rate" (bytes a second).
	EventSnapshot EventKind = "snapshot"
	// EventLost tells that the consumer was too slow: events were dropped here, detail
	// "n" of them. What the VM does now GetVMInfo tells.
	EventLost EventKind = "lost"
)

// ReasonVMMDied is the reason of an EventShutdown without a word from the VMM:
// its process has ended by itself or by force. The event's detail "exit" says
// how, where the back end knows.
const ReasonVMMDied = "vmm-died"

// An Event is one thing that happened to a VM.
type Event struct {
	Kind EventKind
	Time time.Time // when the VMM says it happened
	// State is the state of the VM after the event; "" where the event does not
	// change it.
	State VMState
	// Reason is VMInfo.Reason after the event.
	Reason string
	// Detail is what else the VMM says, in order.
	Detail []Detail
}

// LostEvents is the EventLost that stands for n events, of which last was the last.
func LostEvents(n int, last Event) Event {
	return Event{Kind: EventLost, Time: last.Time, Detail: []Detail{{Key: "n", Value: strconv.Itoa(n)}}}
}

// Detail is one key and value of an Event.
type Detail struct{ Key, Value string }

// The bounds of what is told of an event, whatever the VMM says.
const (
	MaxDetails     = 32
	MaxDetailKey   = 64   // bytes
	MaxDetailValue = 1024 // bytes; of a reason too
	// MaxEventBytes is what the events that wait for a consumer may have together.
	MaxEventBytes = 1 << 20
)

// Size is about how many bytes of memory the event has.
func (e Event) Size() int {
	n := 128 + len(e.State) + len(e.Reason)
	for _, d := range e.Detail {
		n += 32 + len(d.Key) + len(d.Value)
	}
	return n
}

// Cut is the event within the bounds of what is told.
func (e Event) Cut() Event {
	e.Reason = cut(e.Reason, MaxDetailValue)
	details := e.Detail[:min(len(e.Detail), MaxDetails)]
	e.Detail = nil
	for _, d := range details {
		e.Detail = append(e.Detail, Detail{Key: cut(d.Key, MaxDetailKey), Value: cut(d.Value, MaxDetailValue)})
	}
	return e
}

// cut is s with at most so many bytes and a mark where some are missing.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// A Hypervisor that holds a connection to its VMM implements io.Closer too:
// Close gives up the connection and leaves the VM as it is; blocked calls
// return. CloseHandle calls it where it is there.
func CloseHandle(hv Hypervisor) error {
	if c, ok := hv.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// ExtraChecker is a VMStarter that checks the settings of its own (see
// VMConfig.Extras) when they are written, not only when a VM starts. The error
// for a key that there is not, or a value out of range, is an ErrInvalid.
type ExtraChecker interface {
	CheckExtra(key, value string) error
}

// ConfigChecker is a VMStarter that says of a whole configuration what it can never run,
// when that is written and not only when a VM starts. The configuration is one that
// VMConfig.Check takes. What may still come, in it or on the host, is no error: the kernel
// that is not set yet, a file that is not there.
type ConfigChecker interface {
	CheckConfig(config VMConfig) error
}

// ConfigRestorer is a VMStarter that can restore a VM elsewhere than where its snapshot
// was taken: on another host, or with its disks at other paths.
type ConfigRestorer interface {
	// RestoreVMWith is RestoreVM with config laid over the configuration that the
	// snapshot has. From config is what is the host's: the paths of disks, kernel and
	// logs, limits, networks, sockets, the vsock CID, and the VM's identity. What the
	// guest's state goes with stays as it was saved: CPUs, memory, and which
	// devices there are. A config with other devices is an ErrInvalid.
	RestoreVMWith(ctx context.Context, p *Paths, version, socketPath, snapshotPath string, config VMConfig) (pid int, hv Hypervisor, err error)
}

// Capable is a VMStarter that can say what a VM with a certain configuration can
// do, before it runs: the same as its handle says once it does. With the zero
// VMConfig that is what a VM can do whose configuration takes nothing away.
type Capable interface {
	Capabilities(config VMConfig) Capabilities
}

// VsockSource is a Hypervisor that knows itself how its guest is reached by vsock, as it
// was started. Who has a handle asks it first: NewVsockDialer knows the configuration
// alone.
type VsockSource interface {
	// VsockDialer returns what leads into the guest, or ErrNotSupported for one
	// without a vsock device. It does not wait.
	VsockDialer() (VsockDialer, error)
}

// OwnCID is a VMStarter whose VMMs pick the vsock context IDs of their guests themselves, and
// tell them nobody: VMConfig.VsockCID says no more than that there is a vsock.
type OwnCID interface {
	OwnCID()
}

// VsockListener is a VsockDialer that can also wait for streams that the guest
// opens to a port of the host, 1..4294967294.
type VsockListener interface {
	// ListenVsock takes the guest's connections to port until the listener is
	// closed. There is one listener to a port of a guest at a time. ctx bounds the
	// call, not the listener.
	ListenVsock(ctx context.Context, port int) (net.Listener, error)
}
