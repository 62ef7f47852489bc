package qemu

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"

	"vmfs/backends/hypervisor"
	"vmfs/backends/stored"
	"vmfs/internal/unixsock"
)

// SocketName is the usual file name of the control socket.
const SocketName = "qmp.sock"

// A runDir is the run-time directory of one VM, named by the control socket in it.
type runDir struct {
	dir    string // absolute
	socket string // the control socket's file name
}

// dirOf returns the run-time directory of a control socket.
func dirOf(socketPath string) (runDir, error) {
	if socketPath == "" {
		return runDir{}, fmt.Errorf("no socket path: %w", hypervisor.ErrInvalid)
	}
	path, err := filepath.Abs(socketPath)
	if err != nil {
		return runDir{}, err
	}
	return runDir{filepath.Dir(path), filepath.Base(path)}, nil
}

func (d runDir) path(name string) string { return filepath.Join(d.dir, name) }

func (d runDir) control() string { return d.path(d.socket) }
func (d runDir) monitor() string { return d.path("monitor.sock") }
func (d runDir) console() string { return d.path("console.sock") }
func (d runDir) vhost() string   { return d.path("vhost.sock") }
func (d runDir) pidFile() string { return d.path("qemu.pid") }
func (d runDir) record() string  { return d.path("qemu.json") }
func (d runDir) swap() string    { return d.path("restore.json") }
func (d runDir) log() string     { return d.path("qemu.log") } // where VMConfig.LogPath is empty

// left is what a QEMU may leave when it is killed.
func (d runDir) left() []string {
	return []string{d.control(), d.monitor(), d.console(), d.vhost(), d.pidFile(), d.record()}
}

// clear removes what an earlier QEMU left. No QEMU of this directory must run.
func (d runDir) clear() error {
	var errs []error
	for _, path := range d.left() {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// prepare makes the directory ready for a start: it exists, nobody is in it, and
// nothing of an earlier QEMU is left in it.
func (d runDir) prepare() error {
	for _, path := range []string{d.control(), d.monitor(), d.console(), d.vhost()} {
		if err := unixsock.CheckPath(path); err != nil {
			return fmt.Errorf("%w: %w", hypervisor.ErrInvalid, err)
		}
	}
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return err
	}
	served, err := unixsock.Served(d.control())
	if err != nil {
		return err
	}
	if served {
		return fmt.Errorf("a process serves %s already: %w", d.control(), hypervisor.ErrBusy)
	}
	return d.clear()
}

// A record is what a server that was started anew needs to know of a VM and QEMU
// does not tell. It is written before QEMU is started.
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
	// Ran is whether the guest was let run: a reset while it is paused makes QEMU
	// look as if it had not.
	Ran bool `json:"ran"`
	// Vsock is whether the guest has a vsock device of another process.
	Vsock bool `json:"vsock,omitempty"`
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

// write replaces the record on disk. It lasts as long as QEMU does, and so is
// not synced.
func (r record) write(d runDir) error {
	r.Format = recordFormat // it may have been read of an older one
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return renameio.WriteFile(d.record(), append(b, '\n'), 0o600)
}

// readRecord returns what was written, or an error that is fs.ErrNotExist.
func readRecord(d runDir) (*record, error) {
	b, err := os.ReadFile(d.record())
	if err != nil {
		return nil, err
	}
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", d.record(), err)
	}
	if r.Format != recordFormat && r.Format != recordFormat1 {
		return nil, fmt.Errorf("%s: the format is %d, and this version reads up to %d", d.record(), r.Format, recordFormat)
	}
	return &r, nil
}
