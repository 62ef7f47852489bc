package qemu

import (
	"time"

	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
	"vmfs/backends/rundir"
	"vmfs/backends/stored"
)

// SocketName is the usual file name of the control socket.
const SocketName = "qmp.sock"

// A runDir is the run-time directory of one VM.
type runDir struct{ rundir.Dir }

// dirOf returns the run-time directory of a control socket.
func dirOf(socketPath string) (runDir, error) {
	d, err := rundir.Of(socketPath)
	return runDir{d}, err
}

func (d runDir) control() string { return d.Control() }
func (d runDir) monitor() string { return d.Path("monitor.sock") }
func (d runDir) vhost() string   { return d.Path("vhost.sock") }
func (d runDir) pidFile() string { return d.Path("qemu.pid") }
func (d runDir) record() string  { return d.Path("qemu.json") }
func (d runDir) swap() string    { return d.Path("restore.json") }
func (d runDir) log() string     { return d.Path("qemu.log") } // where VMConfig.LogPath is empty

// left is what a QEMU may leave when it is killed.
func (d runDir) left() []string {
	return append([]string{d.control(), d.monitor(), d.vhost(), d.pidFile(), d.record()}, d.serial(&hypervisor.VMConfig{}).Files()...)
}

// clear removes what an earlier QEMU left. No QEMU of this directory must run.
func (d runDir) clear() error { return rundir.Clear(d.left()) }

// prepare makes the directory ready for a start.
func (d runDir) prepare() error {
	return d.Prepare(append(d.serial(&hypervisor.VMConfig{}).Sockets(), d.monitor(), d.vhost()), d.left())
}

// A record is what a server that was started anew needs to know of a VM and QEMU
// does not tell. It is written before QEMU is started, and again
// when its process is known.
type record struct {
	Format  int           `json:"format"`
	Config  stored.Config `json:"config"`
	Layout  layout        `json:"layout"`
	Binary  string        `json:"binary"`
	Version string        `json:"version"`
	Accel   string        `json:"accel"`
	Machine string        `json:"machine"`
	Args    []string      `json:"args"`
	Time    time.Time     `json:"time"`
	// Process is QEMU's, once it is known; earlier versions did not put it down.
	Process *process.Process `json:"process,omitempty"`
	// Ran is whether the guest was let run: a reset while it is paused makes QEMU
	// look as if it had not.
	Ran bool `json:"ran"`
	// Vsock is whether the guest has a vsock device of another process.
	Vsock bool `json:"vsock,omitempty"`
	// Serial is whether a process beside QEMU holds the console, as earlier versions had
	// none: what there is of it QEMU has itself then.
	Serial bool `json:"serial,omitempty"`
	// Ejects is whether that can be taken out without the guest.
	Ejects bool `json:"ejects,omitempty"`
	// Resume is set while a running VM is paused for a snapshot, so that a server
	// that finds it so can let it go on.
	Resume bool `json:"resume,omitempty"`
}

// The formats of records. The first had VMConfig as it was, and no layouts.
const (
	recordFormat1 = 1
	recordFormat  = 2
)

// write replaces the record on disk.
func (r record) write(d runDir) error {
	r.Format = recordFormat // it may have been read of an older one
	return rundir.Write(d.record(), r)
}

// readRecord returns what was written, or an error that is fs.ErrNotExist.
func readRecord(d runDir) (*record, error) {
	var r record
	if err := rundir.Read(d.record(), recordFormat1, recordFormat, &r); err != nil {
		return nil, err
	}
	return &r, nil
}
