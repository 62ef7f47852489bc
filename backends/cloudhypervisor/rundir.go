package cloudhypervisor

import (
	"vmfs/backends/cloudhypervisor/api"
	"vmfs/backends/hypervisor"
	"vmfs/backends/rundir"
	"vmfs/backends/serial"
)

// SocketName is the usual file name of the control socket.
const SocketName = "ch.sock"

// runDirs are those of Cloud Hypervisor's VMs.
var runDirs = &rundir.Kind{
	Record: "ch.json", Log: "ch.log", Sockets: serial.Sockets(), Files: append(serial.Files(), eventFile), Oldest: 1, Newest: 1,
}

const eventFile = "events.json"

// A runDir is the run-time directory of one VM.
type runDir struct{ rundir.Dir }

// dirOf returns the run-time directory of a control socket.
func dirOf(socketPath string) (runDir, error) {
	d, err := runDirs.Of(socketPath)
	return runDir{d}, err
}

func (d runDir) events() string { return d.Path(eventFile) }
func (d runDir) source() string { return d.Path("restore") } // what is restored from

// placeVsock says where the socket of the vsock device is, if nobody has.
func (d runDir) placeVsock(c *hypervisor.VMConfig) {
	if c.VsockCID != 0 && c.VsockSocket == "" {
		c.VsockSocket = d.Path("vsock.sock")
	}
}

// A record is what a server that was started anew needs to know of a VM and Cloud
// Hypervisor does not tell. It is written again when the process is known: its Time is that from
// which the VMM counts the times of its events.
type record struct {
	rundir.Record
	// Memory is how the memory is read of a VM that is restored; "" is one that was started.
	Memory api.MemoryRestoreMode `json:"memory,omitempty"`
}
