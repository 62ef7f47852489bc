package shimconfig

import "slices"

// A Feature is one thing that a host's framework can do, as a word. A server ignores
// words that it does not know.
type Feature string

// The features. Which macOS they came with is in brackets; the engine asks the
// framework, and not the version, wherever there is something to ask.
const (
	FeatureStop     Feature = "stop"     // a VM can be stopped without its guest [12]
	FeatureEFI      Feature = "efi"      // Boot.EFI [13]
	FeatureMachine  Feature = "machine"  // generic machine identifiers [13]
	FeatureSave     Feature = "save"     // machine state is saved and restored [14, Apple silicon]
	FeatureCaching  Feature = "caching"  // caching and synchronization modes of disks [12]
	FeatureBridged  Feature = "bridged"  // the program may use bridged networks
	FeatureVsock    Feature = "vsock"    // virtio socket devices [11]
	FeatureBalloon  Feature = "balloon"  // memory balloons [11]
	FeatureNetFiles Feature = "netfiles" // networks of kind NetFile [11]
)

// A Host is what a shim says of the framework of its host, before there is a VM.
type Host struct {
	// Engine is what makes the VMs: "Virtualization.framework", or "fake".
	Engine string `json:"engine"`
	// Version is the operating system's: "14.5".
	Version string `json:"version"`
	// Arch is the guests', as GOARCH has it.
	Arch     string    `json:"arch"`
	Features []Feature `json:"features"`
	// What the framework allows.
	MinCPUs   int   `json:"min_cpus"`
	MaxCPUs   int   `json:"max_cpus"`
	MinMemory int64 `json:"min_memory"`
	MaxMemory int64 `json:"max_memory"`
	// Bridges are the host's interfaces that can be bridged.
	Bridges []string `json:"bridges,omitempty"`
}

// Has tells whether the host has a feature.
func (h Host) Has(f Feature) bool { return slices.Contains(h.Features, f) }

// Support is what the framework says of a valid configuration.
type Support struct {
	// NoSave is why the machine's state cannot be saved and restored, "" where it can:
	// what the framework's own check says, or that there is none on this host.
	NoSave string `json:"no_save,omitempty"`
}

// A Report is what a shim says of the VM that it has made.
type Report struct {
	Host    Host    `json:"host"`
	Support Support `json:"support"`
	// Machine is the generic machine identifier that the VM has, to be given back when
	// it is started again or restored. It is empty where the host has none.
	Machine []byte `json:"machine,omitempty"`
}
