package hypervisor

// CPUTopology is how a VM's virtual CPUs are laid out. A zero field counts as 1.
type CPUTopology struct {
	ThreadsPerCore int
	CoresPerDie    int
	DiesPerPackage int
	Packages       int
}

// CPUs returns the number of virtual CPUs that the topology adds up to.
func (t CPUTopology) CPUs() int {
	n := 1
	for _, f := range []int{t.ThreadsPerCore, t.CoresPerDie, t.DiesPerPackage, t.Packages} {
		n *= max(f, 1)
	}
	return n
}

// DiskFormat is the format of a disk image. It is what the configuration says,
// never what the image looks like: a guest that writes a qcow2 header into a
// raw disk must not gain the host files that such a header can name.
type DiskFormat string

// The disk formats. The zero value means raw.
const (
	DiskRaw   DiskFormat = "raw"
	DiskQCOW2 DiskFormat = "qcow2"
)

// DiskConfig is one disk.
type DiskConfig struct {
	Path     string
	Readonly bool
	// IOBps limits the sustained throughput in bytes a second; 0 is no limit.
	IOBps int64
	// IOBurstBps is the throughput in bytes a second that a burst may reach; 0 is
	// no burst above IOBps.
	IOBurstBps int64
	// Format is raw where it is empty.
	Format DiskFormat
	// Size is what the disk has for the guest, in bytes: at a start an image that is
	// missing is made, and a smaller one grows. None shrinks: a larger one is an
	// ErrInvalid. 0 takes the image as it is.
	Size int64
}

// NetworkConfig is one network device. With TAPDevice set it is that tap; with
// Bridge set it is a tap that is made for this VM on that bridge of the host, and
// goes with the VMM; with User set it is the VMM's own user-mode network; with Passt
// set it is one that passt(1) makes, a process of its own.
type NetworkConfig struct {
	TAPDevice string
	Bridge    string
	IP        string
	MAC       string
	Netmask   string
	// User asks for user-mode networking: outward connections through the host's
	// own, no tap and no privilege.
	User bool
	// Passt asks for the same by passt: faster, with the host's own addresses, and
	// apart from the VMM.
	Passt bool
	// Forwards lists the host ports that lead into the guest of a network that is
	// no tap, each as PROTO:HOSTADDR:HOSTPORT:GUESTPORT ("tcp:127.0.0.1:2222:22"): see
	// ParseForward.
	Forwards []string
}

// VMConfig is everything a back end needs to start a VM. All sizes are bytes. What
// its fields can be is what Check says.
type VMConfig struct {
	VCPUs       int // 0 counts as 1
	MemoryBytes int64
	// HotplugBytes is the memory that can be added above MemoryBytes.
	HotplugBytes int64
	Topology     *CPUTopology
	Disks        []DiskConfig
	Networks     []NetworkConfig
	// SerialLogPath is the file that the serial console's output is appended to,
	// whether or not anybody is connected to the console, and whether or not a server
	// runs.
	SerialLogPath string
	// SerialLogMax bounds the bytes of that file on disk, for the time when nobody else
	// does: beyond it a back end may cut off the file's head. 0 is no bound.
	SerialLogMax int64
	// VsockCID is the guest's context ID, 3..4294967294; 0 is no vsock by CID.
	VsockCID int64
	// VsockSocket is the host-side Unix socket of a hybrid vsock device; "" is none.
	VsockSocket string
	// PCIDevices are devices of the host for the guest alone: see PCIDevice.
	PCIDevices []string
	KernelPath string
	InitrdPath string
	KernelArgs string

	// Name and UUID identify the VM; a VMM started with them tells them again
	// (see Identifier).
	Name string
	UUID string
	// LogPath is the file that the VMM's own output (stdout and stderr) is
	// appended to.
	LogPath string
	// Extras are the settings of one back end only, by their whole key
	// ("qemu.accel"). A back end refuses those with its prefix that it does
	// not know and ignores those of others.
	Extras map[string]string
}
