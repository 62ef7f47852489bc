package cloudhypervisor

import (
	"time"

	"vmfs/backends/cloudhypervisor/api"
	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
	"vmfs/backends/rundir"
	"vmfs/backends/stored"
)

// SocketName is the usual file name of the control socket.
const SocketName = "ch.sock"

// A runDir is the run-time directory of one VM.
type runDir struct{ rundir.Dir }

// dirOf returns the run-time directory of a control socket.
func dirOf(socketPath string) (runDir, error) {
	d, err := rundir.Of(socketPath)
	return runDir{d}, err
}

func (d runDir) record() string { return d.Path("ch.json") }
func (d runDir) events() string { return d.Path("events.json") }
func (d runDir) swap() string   { return d.Path("restore.json") }
func (d runDir) source() string { return d.Path("restore") } // what is restored from
func (d runDir) log() string    { return d.Path("ch.log") }  // where VMConfig.LogPath is empty

// placeVsock says where the socket of the vsock device is, if nobody has.
func (d runDir) placeVsock(c *hypervisor.VMConfig) {
	if c.VsockCID != 0 && c.VsockSocket == "" {
		c.VsockSocket = d.Path("vsock.sock")
	}
}

// left is what a VMM may leave when it is killed.
func (d runDir) left() []string {
	return append([]string{d.Control(), d.events(), d.record()}, d.serial(&hypervisor.VMConfig{}).Files()...)
}

// clear removes what an earlier VMM left. No VMM of this directory must run.
func (d runDir) clear() error { return rundir.Clear(d.left()) }

// prepare makes the directory ready for a start.
func (d runDir) prepare() error {
	return d.Prepare(d.serial(&hypervisor.VMConfig{}).Sockets(), d.left())
}

// A record is what a server that was started anew needs to know of a VM and Cloud
// Hypervisor does not tell. It is written before that is started, and again when its
// process is known.
type record struct {
	Format  int           `json:"format"`
	Config  stored.Config `json:"config"`
	Binary  string        `json:"binary"`
	Version string        `json:"version"`
	Args    []string      `json:"args"`
	Time    time.Time     `json:"time"` // from which the VMM counts the times of its events
	// Process is the VMM's, once it is known.
	Process *process.Process `json:"process,omitempty"`
	// Ran is whether the guest was let run: one that has ended looks as if it had not.
	Ran bool `json:"ran"`
	// Resume is set while a running VM is paused for a snapshot, so that a server
	// that finds it so can let it go on.
	Resume bool `json:"resume,omitempty"`
	// Memory is how the memory is read of a VM that is restored; "" is one that was started.
	Memory api.MemoryRestoreMode `json:"memory,omitempty"`
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
