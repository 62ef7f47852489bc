// Package rundir is the run-time directory of a VM, in which its VMM has its sockets
// and the back end its record: named by the control socket, made ready for a start, and
// cleared of what an earlier VMM has left.
//
// The package imports the standard library, packages hypervisor, process and stored, internal/regular,
// internal/unixsock and renameio.
package rundir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"vmfs/backends/hypervisor"
	"vmfs/internal/unixsock"
)

// A Kind is the run-time directories of one VMM: what is in them, by its file name.
type Kind struct {
	Record string // the record
	Log    string // what the VMM says, where VMConfig.LogPath is empty
	// Sockets are those beside the control socket, and Files what else a VMM may leave
	// that was killed.
	Sockets, Files []string
	// Oldest and Newest are the formats of records that are read; the newest is written.
	Oldest, Newest int
}

// A Dir is the run-time directory of one VM.
type Dir struct {
	kind   *Kind
	dir    string // absolute
	socket string // the control socket's file name
}

// Of returns the run-time directory of a control socket.
func (k *Kind) Of(socketPath string) (Dir, error) {
	if socketPath == "" {
		return Dir{}, fmt.Errorf("no socket path: %w", hypervisor.ErrInvalid)
	}
	path, err := filepath.Abs(socketPath)
	if err != nil {
		return Dir{}, err
	}
	return Dir{k, filepath.Dir(path), filepath.Base(path)}, nil
}

// String returns the directory's path.
func (d Dir) String() string { return d.dir }

// Path returns that of a file in it.
func (d Dir) Path(name string) string { return filepath.Join(d.dir, name) }

// Control returns the path of the control socket.
func (d Dir) Control() string { return d.Path(d.socket) }

// Record returns that of the record.
func (d Dir) Record() string { return d.Path(d.kind.Record) }

// Log returns that of the log of a VM whose configuration names none.
func (d Dir) Log() string { return d.Path(d.kind.Log) }

// Swap returns that of the journal which is there while a VM is restored (see disk.Swap).
func (d Dir) Swap() string { return d.Path("restore.json") }

// VM returns what a VM is called that has no name: as its directory is.
func (d Dir) VM() string { return filepath.Base(d.dir) }

// Clear removes what an earlier VMM left. No VMM of this directory must run.
func (d Dir) Clear() error {
	var errs []error
	for _, name := range slices.Concat([]string{d.socket, d.kind.Record}, d.kind.Sockets, d.kind.Files) {
		if err := os.Remove(d.Path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Prepare makes the directory ready for a start: it exists, its sockets can have their
// paths, nobody serves the control socket, and what an earlier VMM left is removed.
func (d Dir) Prepare() error {
	for _, name := range append([]string{d.socket}, d.kind.Sockets...) {
		if err := unixsock.CheckPath(d.Path(name)); err != nil {
			return fmt.Errorf("%w: %w", hypervisor.ErrInvalid, err)
		}
	}
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return err
	}
	served, err := unixsock.Served(d.Control())
	if err != nil {
		return err
	}
	if served {
		return fmt.Errorf("a process serves %s already: %w", d.Control(), hypervisor.ErrBusy)
	}
	return d.Clear()
}
