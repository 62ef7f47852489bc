package hypervisor

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

// The bounds of a VMConfig, for every back end.
const (
	MaxVCPUs    = 512
	MemoryStep  = int64(1) << 20 // what MemoryBytes is a multiple of
	MinMemory   = 16 * MemoryStep
	MaxMemory   = int64(1) << 46 // of MemoryBytes and HotplugBytes together
	MinVsockCID = 3
	MaxVsockCID = 1<<32 - 2
	SectorSize  = 512 // what DiskConfig.Size is a multiple of
	// Of devices of a kind there are at most:
	MaxDisks, MaxNetworks, MaxPCIDevices = 64, 64, 56
	MaxForwards                          = 64 // of one network
	MaxExtras                            = 64
	// MaxVsockSocket is how long the path VsockSocket can be: a Unix socket's, less
	// what a hybrid vsock puts behind it for a port.
	MaxVsockSocket = len(syscall.RawSockaddrUnix{}.Path) - 1 - len("_4294967294")

	maxPath       = 4095    // PATH_MAX less the NUL byte
	maxKernelArgs = 1 << 16 // more than any kernel takes, and less than a program's argument can hold
	maxInterface  = 15      // IFNAMSIZ less the NUL byte (netdevice(7))
)

// invalid is an ErrInvalid whose text is all that there is to say.
type invalid struct{ text string }

func (e *invalid) Error() string        { return e.text }
func (e *invalid) Is(target error) bool { return target == ErrInvalid }

func invalidf(format string, args ...any) error { return &invalid{fmt.Sprintf(format, args...)} }

// Check returns nil for a configuration that makes sense, or an ErrInvalid that
// says what does not. It knows nothing of this host and of one back end: a
// start may still find that a file is missing, or that the VMM cannot do it. Those
// who write configurations and those who start VMs ask it alike, so that what
// the ones take the others do.
func (c *VMConfig) Check() error {
	if c.VCPUs < 0 || c.VCPUs > MaxVCPUs {
		return invalidf("%d virtual CPUs: want 1 to %d", c.VCPUs, MaxVCPUs)
	}
	if t := c.Topology; t != nil {
		for _, n := range []int{t.ThreadsPerCore, t.CoresPerDie, t.DiesPerPackage, t.Packages} {
			if n < 0 || n > MaxVCPUs {
				return invalidf("a topology with %d of a kind: want 1 to %d", n, MaxVCPUs)
			}
		}
		if n := max(c.VCPUs, 1); t.CPUs() != n {
			return invalidf("the topology makes %d CPUs and vcpus is %d: they must agree", t.CPUs(), n)
		}
	}
	if err := CheckMemory(c.MemoryBytes); err != nil {
		return err
	}
	if c.HotplugBytes < 0 || c.HotplugBytes > MaxMemory-c.MemoryBytes {
		return invalidf("hotplug of %d bytes: want 0 to %d, which with the memory of %d is 64 TiB", c.HotplugBytes, MaxMemory-c.MemoryBytes, c.MemoryBytes)
	}
	if c.KernelPath == "" && (c.InitrdPath != "" || c.KernelArgs != "") {
		return invalidf("initrd and args need a kernel")
	}
	for _, t := range []struct {
		what, text string
		most       int
	}{{"name", c.Name, maxPath}, {"kernel's arguments", c.KernelArgs, maxKernelArgs}} {
		if strings.ContainsAny(t.text, unprintable) || len(t.text) > t.most {
			return invalidf("the %s %.100q: want at most %d bytes in one line, without NUL bytes", t.what, t.text, t.most)
		}
	}
	if c.UUID != "" && !uuidForm.MatchString(c.UUID) {
		return invalidf("%q is not a UUID", c.UUID)
	}
	for _, path := range []string{c.KernelPath, c.InitrdPath, c.SerialLogPath, c.LogPath} {
		if path != "" {
			if err := CheckPath(path); err != nil {
				return err
			}
		}
	}
	for _, k := range []struct {
		kind    string
		n, most int
	}{{"disks", len(c.Disks), MaxDisks}, {"networks", len(c.Networks), MaxNetworks}, {"PCI devices", len(c.PCIDevices), MaxPCIDevices}, {"settings of a back end", len(c.Extras), MaxExtras}} {
		if k.n > k.most {
			return invalidf("%d %s: a VM can have %d", k.n, k.kind, k.most)
		}
	}
	for _, d := range c.Disks {
		if err := d.Check(); err != nil {
			return fmt.Errorf("disk %s: %w", d.Path, err)
		}
	}
	for i, n := range c.Networks {
		if err := n.Check(); err != nil {
			return fmt.Errorf("network %d: %w", i, err)
		}
	}
	for _, d := range c.PCIDevices {
		if err := CheckPCIDevice(d); err != nil {
			return err
		}
	}
	if c.VsockCID != 0 || c.VsockSocket != "" {
		if err := CheckVsockCID(c.VsockCID); err != nil {
			return err
		}
	}
	if c.VsockSocket != "" {
		return CheckVsockSocket(c.VsockSocket)
	}
	return nil
}

const unprintable = "\x00\n\r"

var uuidForm = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

// CheckPath wants an absolute path: a server's working directory is not that of
// whoever wrote the path.
func CheckPath(path string) error {
	switch {
	case !filepath.IsAbs(path):
		return invalidf("%.100q is not an absolute path", path)
	case len(path) > maxPath || strings.ContainsAny(path, unprintable):
		return invalidf("the path %.100q: want at most %d bytes, without line breaks and NUL bytes", path, maxPath)
	}
	return nil
}

// CheckVsockSocket wants a path of which the sockets of all the guest's ports can
// be made.
func CheckVsockSocket(path string) error {
	if len(path) > MaxVsockSocket {
		return invalidf("the socket path %s has %d bytes, %d too many: use a shorter directory", path, len(path), len(path)-MaxVsockSocket)
	}
	return CheckPath(path)
}

// CheckMemory wants a whole number of MiB that a guest can boot with.
func CheckMemory(bytes int64) error {
	if bytes < MinMemory || bytes > MaxMemory || bytes%MemoryStep != 0 {
		near := min(max((bytes+MemoryStep-1)/MemoryStep*MemoryStep, MinMemory), MaxMemory)
		return invalidf("memory of %d bytes: want a whole number of MiB, 16 MiB to 64 TiB (%d would do)", bytes, near)
	}
	return nil
}

// CheckVsockCID wants a context ID that a guest can have.
func CheckVsockCID(cid int64) error {
	if cid < MinVsockCID || cid > MaxVsockCID {
		return invalidf("%d is not a vsock context ID: want %d to %d", cid, MinVsockCID, int64(MaxVsockCID))
	}
	return nil
}

// Check is VMConfig.Check of one disk.
func (d *DiskConfig) Check() error {
	if d.Path == "" {
		return invalidf("a disk needs a path")
	}
	if err := CheckPath(d.Path); err != nil {
		return err
	}
	switch {
	case !slices.Contains([]DiskFormat{"", DiskRaw, DiskQCOW2}, d.Format):
		return invalidf("unknown format %q: there are raw and qcow2", d.Format)
	case d.Size < 0 || d.Size%SectorSize != 0:
		return invalidf("a size of %d bytes: want a multiple of %d, a sector", d.Size, SectorSize)
	case d.Size != 0 && d.Readonly:
		return invalidf("a readonly disk has the size of its image: leave size out")
	case d.IOBps < 0 || d.IOBurstBps < 0:
		return invalidf("a limit below 0 bytes a second")
	case d.IOBurstBps != 0 && d.IOBps == 0:
		return invalidf("burst needs bps")
	case d.IOBurstBps != 0 && d.IOBurstBps < d.IOBps:
		return invalidf("burst is less than bps")
	}
	return nil
}

// Check is VMConfig.Check of one network device.
func (n *NetworkConfig) Check() error {
	if len(n.Forwards) > MaxForwards {
		return invalidf("%d forwards: a network can have %d", len(n.Forwards), MaxForwards)
	}
	kinds := 0
	for _, is := range []bool{n.TAPDevice != "", n.Bridge != "", n.User, n.Passt} {
		if is {
			kinds++
		}
	}
	if kinds != 1 {
		return invalidf("want one of tap, bridge, user and passt")
	}
	if onHost := cmp.Or(n.TAPDevice, n.Bridge); onHost != "" {
		if err := CheckInterface(onHost); err != nil {
			return err
		}
		if len(n.Forwards) > 0 {
			return invalidf("forward is for networks of user and passt")
		}
	} else if n.IP != "" {
		return invalidf("a network of user or passt hands out its own addresses: leave out ip and netmask")
	}
	if n.MAC != "" {
		mac, err := net.ParseMAC(n.MAC)
		if err != nil || len(mac) != 6 || slices.Max(mac) == 0 {
			return invalidf("%q is not the MAC address of an Ethernet device", n.MAC)
		}
		if mac[0]&1 != 0 {
			return invalidf("%q is a multicast address: the first byte must be even", n.MAC)
		}
	}
	if (n.IP == "") != (n.Netmask == "") {
		return invalidf("ip and netmask go together")
	}
	if n.IP != "" {
		mask, err := netip.ParseAddr(n.Netmask)
		if ip, iperr := netip.ParseAddr(n.IP); iperr != nil || !ip.Is4() {
			return invalidf("%q is not an IPv4 address", n.IP)
		}
		if err != nil || !mask.Is4() || mask.IsUnspecified() {
			return invalidf("%q is not an IPv4 netmask", n.Netmask)
		}
		if _, bits := net.IPMask(mask.AsSlice()).Size(); bits == 0 {
			return invalidf("%q is not a netmask: its ones must come first", n.Netmask)
		}
	}
	for _, rule := range n.Forwards {
		f, err := ParseForward(rule)
		if err != nil {
			return err
		}
		if n.User && f.Addr.Is6() {
			return invalidf("forward %q: a network of user forwards IPv4 only; one of passt does IPv6 too", rule)
		}
	}
	return nil
}

// CheckInterface wants a name that Linux takes for a network device.
func CheckInterface(name string) error {
	refused := slices.ContainsFunc([]byte(name), func(b byte) bool { return b <= ' ' || b == '/' || b == ':' || b == 0x7f || b == 0xa0 })
	if name == "" || len(name) > maxInterface || name == "." || name == ".." || refused {
		return invalidf("%q is not an interface name: want 1 to %d bytes without /, : and blanks", name, maxInterface)
	}
	return nil
}

// pciAddress is a PCI address as lspci(8) writes it, the domain left out or not.
var pciAddress = regexp.MustCompile(`^([0-9a-fA-F]{4}:)?[0-9a-fA-F]{2}:[01][0-9a-fA-F]\.[0-7]$`)

// CheckPCIDevice wants one of VMConfig.PCIDevices.
func CheckPCIDevice(device string) error {
	_, _, err := PCIDevice(device)
	return err
}

// PCIDevice says which device of the host one of VMConfig.PCIDevices is: the full
// address, or the directory in /sys.
func PCIDevice(device string) (address, sysfs string, err error) {
	switch dir := filepath.Clean(device); {
	case pciAddress.MatchString(device):
		if strings.Count(device, ":") == 1 {
			device = "0000:" + device
		}
		return device, "", nil
	case uuidForm.MatchString(device):
		return "", "/sys/bus/mdev/devices/" + strings.ToLower(device), nil
	case strings.HasPrefix(dir, "/sys/") && CheckPath(device) == nil:
		return "", dir, nil
	}
	return "", "", invalidf("%q: want a PCI address such as 0000:01:00.0, a directory in /sys, or the UUID of a mediated device", device)
}
