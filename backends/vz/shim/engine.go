package shim

import (
	"io"
	"os"

	"vmfs/backends/vz/shimconfig"
)

// An Engine makes VMs: Virtualization.framework, or what stands for it in tests. Nothing
// of it takes a context, as nothing of the framework does: every call but those that say
// otherwise may take long, or for ever, and the shim counts on neither.
//
// What cannot be done on this host is an error that says what it would take ("EFI needs
// macOS 13, this is 12.6").
type Engine interface {
	// Host tells what the framework can do here.
	Host() (shimconfig.Host, error)

	// Check has the framework validate a configuration, and tells what a VM of it can
	// do. No VM is made, nothing is opened for writing and no file is made.
	Check(c *shimconfig.Config) (shimconfig.Support, error)

	// New makes the VM of a valid configuration, which is StateStopped. The machine owns
	// files from then on, also if it fails.
	New(c *shimconfig.Config, files Files) (Machine, error)
}

// Files are open files that a VM is made with.
type Files struct {
	// ConsoleIn is read for what is typed at hvc0, and ConsoleOut is written what the
	// guest prints there.
	ConsoleIn, ConsoleOut *os.File
	// Nets are those of the networks of kind NetFile, nil for the others: a connected
	// datagram socket each.
	Nets []*os.File
}

// Close closes them all.
func (f Files) Close() {
	for _, file := range append([]*os.File{f.ConsoleIn, f.ConsoleOut}, f.Nets...) {
		if file != nil {
			_ = file.Close() // what was written is in a pipe or a socket
		}
	}
}

// A State is one of the framework's states of a VM (VZVirtualMachine.State).
type State string

// The states.
const (
	StateStopped   State = "stopped"
	StateRunning   State = "running"
	StatePaused    State = "paused"
	StateError     State = "error"
	StateStarting  State = "starting"
	StatePausing   State = "pausing"
	StateResuming  State = "resuming"
	StateStopping  State = "stopping"
	StateSaving    State = "saving"
	StateRestoring State = "restoring"
)

// An Action is what the framework can say of whether it could be done now.
type Action string

// The actions, each with the property of VZVirtualMachine that is asked.
const (
	ActionStart       Action = "start"        // canStart
	ActionPause       Action = "pause"        // canPause
	ActionResume      Action = "resume"       // canResume
	ActionStop        Action = "stop"         // canStop
	ActionRequestStop Action = "request-stop" // canRequestStop
)

// A Machine is one VM. Its methods may be called at the same time: the engine brings
// them onto the queue that the framework wants.
//
// A method returns when the framework says that it is done; the state may follow a
// moment later, and is what Changes tells.
type Machine interface {
	// Changes has what happens to the VM, in order, from its making on. It is never
	// closed, and there is one reader, who is never slow.
	Changes() <-chan Change

	// Can tells whether the action is possible now.
	Can(a Action) bool

	// Start boots a stopped VM.
	Start() error
	// Pause and Resume stop and run the virtual CPUs.
	Pause() error
	Resume() error
	// Stop ends a VM without asking its guest.
	Stop() error
	// RequestStop presses the guest's power button.
	RequestStop() error

	// Save writes the state of a paused VM to a file that must not exist.
	Save(path string) error
	// Restore reads it into a stopped VM of the same configuration, which is paused then.
	Restore(path string) error

	// Support tells what this VM can do. It does not wait.
	Support() shimconfig.Support
	// Identifier is the generic machine identifier, nil where the host has none. It does
	// not wait.
	Identifier() []byte

	// SetMemoryTarget tells the balloon how much memory the guest is to have, which is a
	// multiple of 1 MiB and at most what it booted with.
	SetMemoryTarget(bytes int64) error

	// Connect opens a stream to a port of the guest. A guest that refuses is an
	// ErrRefused, one that has no vsock device an errors.ErrUnsupported.
	Connect(port uint32) (Conn, error)
	// Listen takes the guest's connections to a port of the host. A port has one
	// listener.
	Listen(port uint32) (Listener, error)
}

// A Change is one thing that happened to a VM.
type Change struct {
	// State is the VM's from now on, "" where it is the same.
	State State
	// Net is the MAC of a network that has lost what was behind it, "" for none.
	Net string
	// Err is why: what the framework says of the stop or of the network.
	Err error
}

// A Conn is a vsock stream. After CloseWrite the other end reads the end of its input,
// and can still be read from.
type Conn interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// A Listener is a port of the host that the guest can connect to. Close ends an Accept
// that waits with an error.
type Listener interface {
	Accept() (Conn, error)
	Close() error
}
