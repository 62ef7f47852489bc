// Package spec is what a test host's runner and its init agree on. It imports nothing.
package spec

// Tags of the host's file systems over virtio-9p.
const (
	RootTag = "root" // all of the machine's files, read-only
	OutTag  = "out"  // a directory that the host may write
)

// OutDir is where the directory of OutTag is in the host.
const OutDir = "/out"

// Port is the name of the virtio-serial port that carries the one program's run, in
// the protocol of package guest/exec.
const Port = "vmfs.exec"

// Parameter is the word of the kernel's command line that names the file, below the
// machine's root, with the Config.
const Parameter = "vmfs.testhost="

// Lines of the serial console.
const (
	Prefix    = "vmfs test host: " // of every line of the init's
	Ready     = Prefix + "ready"
	Heartbeat = Prefix + "alive "
)

// Config is written by the runner as JSON.
type Config struct {
	// Keep are files and directories of the machine to be seen in the host also where
	// it has an empty file system of its own, as on /tmp.
	Keep []string `json:"keep"`
}

// Users are the ordinary users of every test host, each with a group of the same name
// and number, and a home.
var Users = []struct {
	Name string
	ID   int
}{{"ann", 4001}, {"bob", 4002}}
