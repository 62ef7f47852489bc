package qemu

import (
	"vmfs/backends/rundir"
	"vmfs/backends/serial"
)

// SocketName is the usual file name of the control socket.
const SocketName = "qmp.sock"

// runDirs are those of QEMU's VMs. The first format of records had VMConfig as it was, and no
// layouts.
var runDirs = &rundir.Kind{
	Record: "qemu.json", Log: "qemu.log",
	Sockets: append(serial.Sockets(), monitorSocket, vhostSocket), Files: append(serial.Files(), pidFile),
	Oldest: 1, Newest: 2,
}

const (
	monitorSocket = "monitor.sock"
	vhostSocket   = "vhost.sock"
	pidFile       = "qemu.pid"
)

// A runDir is the run-time directory of one VM.
type runDir struct{ rundir.Dir }

// dirOf returns the run-time directory of a control socket.
func dirOf(socketPath string) (runDir, error) {
	d, err := runDirs.Of(socketPath)
	return runDir{d}, err
}

func (d runDir) monitor() string { return d.Path(monitorSocket) }
func (d runDir) vhost() string   { return d.Path(vhostSocket) }
func (d runDir) pidFile() string { return d.Path(pidFile) }

// A record is what a server that was started anew needs to know of a VM and QEMU
// does not tell. Earlier versions did not put down its process.
type record struct {
	rundir.Record
	Layout  layout `json:"layout"`
	Accel   string `json:"accel"`
	Machine string `json:"machine"`
	// Vsock is whether the guest has a vsock device of another process.
	Vsock bool `json:"vsock,omitempty"`
	// Serial is whether a process beside QEMU holds the console, as earlier versions had
	// none: what there is of it QEMU has itself then.
	Serial bool `json:"serial,omitempty"`
	// Ejects is whether that can be taken out without the guest.
	Ejects bool `json:"ejects,omitempty"`
}
