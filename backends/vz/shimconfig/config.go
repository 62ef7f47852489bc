package shimconfig

// The versions of the form of a configuration that this release writes and reads.
const (
	MinVersion = 1
	Version    = 1
)

// MaxSize bounds a configuration in bytes.
const MaxSize = 1 << 20

// The bounds of a configuration's parts.
const (
	MaxDisks   = 64
	MaxNets    = 64
	MaxMachine = 4 << 10
	MaxPath    = 4 << 10
	MaxArgs    = 64 << 10
	MaxName    = 4 << 10
)

// A Config is everything that a shim needs to know of its VM. All sizes are bytes.
type Config struct {
	Version int    `json:"version"`
	Name    string `json:"name"`
	UUID    string `json:"uuid"`
	// CPUs is the number of virtual CPUs.
	CPUs int `json:"cpus"`
	// Memory is what the VM boots with, which it never has more of. It is a multiple of
	// 1 MiB.
	Memory int64 `json:"memory"`
	// Target is what the balloon is told from the first moment; 0 is all of Memory.
	Target int64 `json:"target,omitempty"`
	Boot   Boot  `json:"boot"`
	// Machine is the generic machine identifier's data representation, as a shim has
	// told it of this VM (see Report); empty is a new one, and the framework's default
	// before macOS 13.
	Machine []byte `json:"machine,omitempty"`
	Disks   []Disk `json:"disks,omitempty"`
	Nets    []Net  `json:"nets,omitempty"`
	// Vsock is the virtio socket device, nil for none.
	Vsock *Vsock `json:"vsock,omitempty"`
	// Console is the serial console, hvc0 in the guest, which every VM has. So has it an
	// entropy device and a balloon.
	Console Console `json:"console"`
}

// Boot says how the guest starts: by a Linux kernel, or by EFI from its disks.
type Boot struct {
	Linux *Linux `json:"linux,omitempty"`
	EFI   *EFI   `json:"efi,omitempty"`
}

// Linux is a kernel that is booted directly. On Apple silicon it is to be uncompressed.
type Linux struct {
	Kernel string `json:"kernel"`
	Initrd string `json:"initrd,omitempty"`
	Args   string `json:"args,omitempty"`
}

// EFI is the framework's own firmware, of macOS 13.
type EFI struct {
	// Variables is the file of the firmware's variables, which is made where it is
	// missing.
	Variables string `json:"variables"`
}

// A Caching says what the host caches of a disk image.
type Caching string

// The caching modes, of macOS 12. Automatic is the framework's choice, with which Linux
// guests have had their file systems damaged.
const (
	CachingAutomatic Caching = "automatic"
	CachingCached    Caching = "cached"
	CachingUncached  Caching = "uncached"
)

// A Sync says what becomes of a guest's flush.
type Sync string

// The synchronization modes, of macOS 12.
const (
	SyncFull  Sync = "full"  // to the medium, F_FULLFSYNC
	SyncFsync Sync = "fsync" // to the drive
	SyncNone  Sync = "none"  // not at all: for what may be lost
)

// A Disk is a raw image, and a virtio block device in the guest.
type Disk struct {
	Path     string  `json:"path"`
	Readonly bool    `json:"readonly,omitempty"`
	Caching  Caching `json:"caching"`
	Sync     Sync    `json:"sync"`
}

// A NetKind says what is behind a network device.
type NetKind string

// The kinds of networks.
const (
	// NetNAT is a network of the framework's own with a way out.
	NetNAT NetKind = "nat"
	// NetBridged is an interface of the host, for which the program needs the entitlement
	// com.apple.vm.networking.
	NetBridged NetKind = "bridged"
	// NetFile is a connected datagram socket that the shim inherits, a frame a datagram.
	NetFile NetKind = "file"
)

// A Net is a virtio network device.
type Net struct {
	Kind NetKind `json:"kind"`
	// MAC is the device's address. It is always set: a VM whose addresses have changed
	// cannot be restored.
	MAC string `json:"mac"`
	// Interface is the host's that is bridged: "en0".
	Interface string `json:"interface,omitempty"`
	// FD is the descriptor that the shim inherits, of a NetFile.
	FD int `json:"fd,omitempty"`
}

// Vsock is a virtio socket device. The framework picks the guest's context ID and tells
// it nobody.
type Vsock struct {
	// Socket is the path at which the shim serves the hybrid vsock protocol.
	Socket string `json:"socket"`
}

// Console is where the shim serves the console, and what it keeps of it.
type Console struct {
	// Socket is the path at which it is served.
	Socket string `json:"socket"`
	// Log is the file that all output is appended to, "" is none. Beyond LogMax bytes of
	// its disk its head is cut off; 0 is no bound.
	Log    string `json:"log,omitempty"`
	LogMax int64  `json:"log_max,omitempty"`
}
