package api

// A VMConfig is what vm.create takes and what vm.info returns of it. Of an answer it has the
// fields that it knows.
type VMConfig struct {
	CPUs     CPUs      `json:"cpus"`
	Memory   Memory    `json:"memory"`
	Payload  Payload   `json:"payload"`
	Disks    []Disk    `json:"disks,omitempty"`
	Nets     []Net     `json:"net,omitempty"`
	Balloon  *Balloon  `json:"balloon,omitempty"`
	Serial   Console   `json:"serial"`
	Console  Console   `json:"console"`
	Devices  []Device  `json:"devices,omitempty"`
	Vsock    *Vsock    `json:"vsock,omitempty"`
	PVPanic  bool      `json:"pvpanic,omitempty"`
	Platform *Platform `json:"platform,omitempty"`
}

// CPUs are the virtual CPUs.
type CPUs struct {
	Boot     int       `json:"boot_vcpus"`
	Max      int       `json:"max_vcpus"`
	Topology *Topology `json:"topology,omitempty"`
}

// A Topology is how the virtual CPUs are laid out. Its product is CPUs.Max.
type Topology struct {
	ThreadsPerCore int `json:"threads_per_core"`
	CoresPerDie    int `json:"cores_per_die"`
	DiesPerPackage int `json:"dies_per_package"`
	Packages       int `json:"packages"`
}

// Memory is the guest's memory in bytes.
type Memory struct {
	Size int64 `json:"size"`
	// HotplugSize is how much can be added to Size.
	HotplugSize   int64         `json:"hotplug_size,omitempty"`
	HotplugMethod HotplugMethod `json:"hotplug_method,omitempty"`
	// HotpluggedSize is how much was asked for beyond Size. It is in what a VMM says of its
	// VM and in snapshots; vmfs does not send it.
	HotpluggedSize int64 `json:"hotplugged_size,omitempty"`
}

// A HotplugMethod is how memory is added while the guest runs.
type HotplugMethod string

// The methods. Virtio-mem is the one that also takes memory away again.
const (
	HotplugACPI      HotplugMethod = "Acpi"
	HotplugVirtioMem HotplugMethod = "VirtioMem"
)

// A Payload is what the guest boots: a kernel, or a firmware that looks for one on a disk.
type Payload struct {
	Firmware  string `json:"firmware,omitempty"`
	Kernel    string `json:"kernel,omitempty"`
	Cmdline   string `json:"cmdline,omitempty"`
	Initramfs string `json:"initramfs,omitempty"`
}

// A Disk is a virtio-blk device.
type Disk struct {
	ID       string `json:"id,omitempty"`
	Path     string `json:"path"`
	ReadOnly bool   `json:"readonly,omitempty"`
	// ImageType is always said: a format that is not declared is guessed from the bytes,
	// which are the guest's.
	ImageType ImageType `json:"image_type"`
	// BackingFiles lets the image name other files that are read in its place.
	BackingFiles bool         `json:"backing_files"`
	Serial       string       `json:"serial,omitempty"`
	RateLimiter  *RateLimiter `json:"rate_limiter_config,omitempty"`
}

// An ImageType is the format of a disk image.
type ImageType string

// The formats that vmfs declares.
const (
	ImageRaw   ImageType = "Raw"
	ImageQcow2 ImageType = "Qcow2"
)

// A RateLimiter bounds a device's bytes.
type RateLimiter struct {
	Bandwidth *TokenBucket `json:"bandwidth,omitempty"`
}

// A TokenBucket holds Size tokens, which come back in RefillTime milliseconds. OneTimeBurst
// are spent before those, and never come back.
type TokenBucket struct {
	Size         int64 `json:"size"`
	OneTimeBurst int64 `json:"one_time_burst,omitempty"`
	RefillTime   int64 `json:"refill_time"`
}

// A Net is a virtio-net device. Its tap goes along as a descriptor, see [Client.AddNet]; one
// in a VMConfig that is sent to vm.create would get a tap of the VMM's own making.
type Net struct {
	ID  string `json:"id,omitempty"`
	MAC string `json:"mac,omitempty"`
	// NumQueues counts both directions: two for each descriptor. Zero is two.
	NumQueues int `json:"num_queues,omitempty"`
}

// A Balloon takes memory away from the guest, below Memory.Size.
type Balloon struct {
	ID           string `json:"id,omitempty"`
	Size         int64  `json:"size"` // bytes that it holds
	DeflateOnOOM bool   `json:"deflate_on_oom,omitempty"`
}

// A Console is where a serial port or a virtio-console goes to.
type Console struct {
	Mode   ConsoleMode `json:"mode"`
	File   string      `json:"file,omitempty"`
	Socket string      `json:"socket,omitempty"`
}

// A ConsoleMode is the kind of it.
type ConsoleMode string

// The modes that vmfs uses. With ConsoleSocket the VMM listens on the socket itself.
const (
	ConsoleOff    ConsoleMode = "Off"
	ConsoleNull   ConsoleMode = "Null"
	ConsoleFile   ConsoleMode = "File"
	ConsoleSocket ConsoleMode = "Socket"
)

// A Device is a host's device that the guest gets, by VFIO: its path in sysfs.
type Device struct {
	ID   string `json:"id,omitempty"`
	Path string `json:"path"`
}

// A Vsock is the virtio-vsock device and the Unix socket that the host reaches it by.
type Vsock struct {
	ID     string `json:"id,omitempty"`
	CID    uint32 `json:"cid"`
	Socket string `json:"socket"`
}

// A Platform is what the guest's firmware tables say.
type Platform struct {
	UUID string `json:"system_uuid,omitempty"`
}
