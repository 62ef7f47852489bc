// Package rundir is the run-time directory of a VM, in which its VMM has its sockets
// and the back end its record: named by the control socket, made ready for a start, and
// cleared of what an earlier VMM has left.
//
// The package imports the standard library, package hypervisor, internal/regular, internal/unixsock
// and renameio.
package rundir

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"

	"vmfs/backends/hypervisor"
	"vmfs/internal/regular"
	"vmfs/internal/unixsock"
)

// A Dir is the run-time directory of one VM.
type Dir struct {
	dir    string // absolute
	socket string // the control socket's file name
}

// Of returns the run-time directory of a control socket.
func Of(socketPath string) (Dir, error) {
	if socketPath == "" {
		return Dir{}, fmt.Errorf("no socket path: %w", hypervisor.ErrInvalid)
	}
	path, err := filepath.Abs(socketPath)
	if err != nil {
		return Dir{}, err
	}
	return Dir{filepath.Dir(path), filepath.Base(path)}, nil
}

// String returns the directory's path.
func (d Dir) String() string { return d.dir }

// Path returns that of a file in it.
func (d Dir) Path(name string) string { return filepath.Join(d.dir, name) }

// Control returns the path of the control socket.
func (d Dir) Control() string { return d.Path(d.socket) }

// VM returns what a VM is called that has no name: as its directory is.
func (d Dir) VM() string { return filepath.Base(d.dir) }

// Clear removes files that an earlier VMM left, which need not be there. No VMM of this
// directory must run.
func Clear(paths []string) error {
	var errs []error
	for _, path := range paths {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Prepare makes the directory ready for a start: it exists, sockets can have the paths
// given, nobody serves the control socket, and what an earlier VMM left is removed.
func (d Dir) Prepare(sockets, left []string) error {
	for _, path := range append([]string{d.Control()}, sockets...) {
		if err := unixsock.CheckPath(path); err != nil {
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
	return Clear(left)
}

// Write replaces a record at path. It lasts as long as the VMM does, and so is not
// synced.
func Write(path string, record any) error {
	b, err := json.MarshalIndent(record, "", "\t")
	if err != nil {
		return err
	}
	return renameio.WriteFile(path, append(b, '\n'), 0o600)
}

// maxRecord bounds a record: a configuration can have as much.
const maxRecord = 4 << 20

// Read reads a record of one of the formats from first to last, or returns an error,
// which is fs.ErrNotExist where there is none.
func Read(path string, first, last int, record any) error {
	b, err := regular.ReadOwn(path, maxRecord)
	if err != nil {
		return err
	}
	var is struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(b, &is); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if is.Format < first || is.Format > last {
		return fmt.Errorf("%s: the format is %d, and this version reads up to %d", path, is.Format, last)
	}
	if err := json.Unmarshal(b, record); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
