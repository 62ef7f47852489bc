package vz

import (
	"errors"
	"io/fs"
	"os"

	"github.com/google/renameio/v2"

	"vmfs/backends/hypervisor"
	"vmfs/backends/rundir"
	"vmfs/backends/vz/shimconfig"
)

// SocketName is the usual file name of the control socket.
const SocketName = "vz.sock"

// runDirs are those of the framework's VMs.
var runDirs = &rundir.Kind{
	Record: "vz.json", Log: "vz.log", Sockets: []string{consoleSocket}, Files: left(), Oldest: 1, Newest: 1,
}

const (
	consoleSocket = "console.sock"
	configFile    = "vz.config"
)

// left is what a shim may leave when it is killed, beside its sockets.
func left() []string {
	left := []string{configFile}
	for i := range hypervisor.MaxNetworks {
		left = append(left, netSocket(i))
	}
	return left
}

// A runDir is the run-time directory of one VM.
type runDir struct{ rundir.Dir }

// dirOf returns the run-time directory of a control socket.
func dirOf(socketPath string) (runDir, error) {
	d, err := runDirs.Of(socketPath)
	return runDir{d}, err
}

func (d runDir) config() string  { return d.Path(configFile) }
func (d runDir) machine() string { return d.Path("vz.machine") }
func (d runDir) efi() string     { return d.Path("vz.efi") }
func (d runDir) console() string { return d.Path(consoleSocket) }

// placeVsock says where the socket of the vsock device is, if nobody has.
func (d runDir) placeVsock(c *hypervisor.VMConfig) {
	if c.VsockCID != 0 && c.VsockSocket == "" {
		c.VsockSocket = d.Path("vsock.sock")
	}
}

// identifier returns the machine identifier that the VM had before, nil if it had none.
func (d runDir) identifier() ([]byte, error) {
	b, err := os.ReadFile(d.machine())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

// keepIdentifier keeps the one that it has.
func (d runDir) keepIdentifier(id []byte) error {
	if len(id) == 0 {
		return nil
	}
	return renameio.WriteFile(d.machine(), id, 0o600)
}

// A record is what a server that was started anew needs to know of a VM.
type record struct {
	rundir.Record
	// Report is what the shim says of its VM, once that is made.
	Report *shimconfig.Report `json:"report,omitempty"`
	// MACs are those of the networks.
	MACs []string `json:"macs,omitempty"`
	// Seen is the number of the last event that was reported: a server that comes back
	// goes on behind it.
	Seen uint64 `json:"seen,omitempty"`
	// Memory is what the guest's agent said last that the guest has.
	Memory int64 `json:"memory,omitempty"`
	// Restores is whether the VM is one that is restored.
	Restores bool `json:"restores,omitempty"`
}
