package vz

import (
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/google/renameio/v2"

	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
	"vmfs/backends/rundir"
	"vmfs/backends/stored"
	"vmfs/backends/vz/shimconfig"
)

// SocketName is the usual file name of the control socket.
const SocketName = "vz.sock"

// A runDir is the run-time directory of one VM.
type runDir struct{ rundir.Dir }

// dirOf returns the run-time directory of a control socket.
func dirOf(socketPath string) (runDir, error) {
	d, err := rundir.Of(socketPath)
	return runDir{d}, err
}

func (d runDir) record() string  { return d.Path("vz.json") }
func (d runDir) config() string  { return d.Path("vz.config") }
func (d runDir) machine() string { return d.Path("vz.machine") }
func (d runDir) efi() string     { return d.Path("vz.efi") }
func (d runDir) console() string { return d.Path("console.sock") }
func (d runDir) swap() string    { return d.Path("restore.json") }
func (d runDir) log() string     { return d.Path("vz.log") } // where VMConfig.LogPath is empty

// placeVsock says where the socket of the vsock device is, if nobody has.
func (d runDir) placeVsock(c *hypervisor.VMConfig) {
	if c.VsockCID != 0 && c.VsockSocket == "" {
		c.VsockSocket = d.Path("vsock.sock")
	}
}

// left is what a shim may leave when it is killed.
func (d runDir) left() []string {
	left := []string{d.Control(), d.console(), d.config(), d.record()}
	for i := range hypervisor.MaxNetworks {
		left = append(left, d.net(i))
	}
	return left
}

// clear removes what an earlier shim left. No shim of this directory must run.
func (d runDir) clear() error { return rundir.Clear(d.left()) }

// prepare makes the directory ready for a start.
func (d runDir) prepare() error { return d.Prepare([]string{d.console()}, d.left()) }

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

// A record is what a server that was started anew needs to know of a VM. It is written
// before the shim is started, and again when its process and its VM are known.
type record struct {
	Format int           `json:"format"`
	Config stored.Config `json:"config"`
	Binary string        `json:"binary"`
	Time   time.Time     `json:"time"`
	// Process is the shim's, once it is known.
	Process *process.Process `json:"process,omitempty"`
	// Report is what the shim says of its VM, once that is made.
	Report *shimconfig.Report `json:"report,omitempty"`
	// MACs are those of the networks.
	MACs []string `json:"macs,omitempty"`
	// Seen is the number of the last event that was reported: a server that comes back
	// goes on behind it.
	Seen uint64 `json:"seen,omitempty"`
	// Memory is what the guest's agent said last that the guest has.
	Memory int64 `json:"memory,omitempty"`
	// Resume is set while a running VM is paused for a snapshot, so that a server
	// that finds it so can let it go on.
	Resume bool `json:"resume,omitempty"`
	// Restores is whether the VM is one that is restored.
	Restores bool `json:"restores,omitempty"`
}

// recordFormat is the format of records.
const recordFormat = 1

// write replaces the record on disk.
func (r record) write(d runDir) error {
	r.Format = recordFormat
	return rundir.Write(d.record(), r)
}

// readRecord returns what was written, or an error that is fs.ErrNotExist.
func readRecord(d runDir) (*record, error) {
	var r record
	if err := rundir.Read(d.record(), recordFormat, recordFormat, &r); err != nil {
		return nil, err
	}
	return &r, nil
}
