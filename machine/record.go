package machine

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"

	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
)

// A phase is how far a VM's record knows it to have come. The record is written
// before a VMM is spawned and again once it runs, so that a server that is killed
// at any moment leaves no VMM that its successor does not look for.
type phase string

const (
	phaseDown      phase = "down"      // no VMM
	phaseStarting  phase = "starting"  // a VMM may be there, on its way to running
	phaseRestoring phase = "restoring" // a VMM may be there, on its way to paused
	phaseRunning   phase = "running"   // a VMM is there, or has died since
)

// A record is the run-time part of a VM on disk, record.json.
type record struct {
	Format  int       `json:"format"` // recordFormat
	ID      uint64    `json:"id"`
	UUID    string    `json:"uuid"`
	Created time.Time `json:"created"`
	Owner   Owner     `json:"owner"`
	Phase   phase     `json:"phase"`
	// Ran tells a VM that is created from one that is shutdown.
	Ran bool `json:"ran"`
	// Seq is a lower bound of the last event's number.
	Seq uint64 `json:"seq"`

	// What follows is of the VMM, or of the last one.
	Backend      hypervisor.Type  `json:"backend,omitempty"`
	Version      string           `json:"version,omitempty"`
	Socket       string           `json:"socket,omitempty"`
	Process      *process.Process `json:"process,omitempty"` // nil where it is not known, or not a process
	Started      time.Time        `json:"started,omitzero"`
	MemoryTarget int64            `json:"memoryTarget,omitempty"`
	// VsockCID is the guest's context ID where it was picked for it. It is kept
	// for the next start.
	VsockCID int64     `json:"vsockCID,omitempty"`
	LastExit string    `json:"lastExit,omitempty"`
	ExitTime time.Time `json:"exitTime,omitzero"`
}

const recordFormat = 1

// check finds what a record that could be parsed cannot be.
func (r *record) check() error {
	switch {
	case r.Format != recordFormat:
		return fmt.Errorf("format is %d, this server knows %d", r.Format, recordFormat)
	case r.ID == 0 || r.ID > 1<<62 || r.UUID == "":
		return errors.New("no id or no uuid")
	}
	switch r.Phase {
	case phaseDown, phaseStarting, phaseRestoring, phaseRunning:
		return nil
	}
	return fmt.Errorf("unknown phase %q", r.Phase)
}

func readRecord(path string) (record, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return record{}, err
	}
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return record{}, fmt.Errorf("%s: %w", path, err)
	}
	if err := r.check(); err != nil {
		return record{}, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

func (r record) write(path string) error {
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return replaceFile(path, append(b, '\n'))
}

// replaceFile replaces the file as a whole or not at all, also over a crash.
func replaceFile(path string, data []byte) error {
	dir := filepath.Dir(path)
	err := renameio.WriteFile(path, data, 0o600, renameio.WithTempDir(dir), renameio.WithStaticPermissions(0o600))
	if err != nil {
		return err
	}
	return syncDir(dir)
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

func newUUID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6] = b[6]&0x0f | 0x40 // version 4
	b[8] = b[8]&0x3f | 0x80 // RFC 9562
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// Files of a VM's directory.
const (
	recordFile   = "record.json"
	configFile   = "config"
	historyFile  = "events"
	consoleFile  = "console.log"
	logFile      = "log"
	runDir       = "run"
	snapshotsDir = "snapshots"
)

// Prefixes of names beside VMs and snapshots that are not there yet or not any
// more. No valid name starts with a dot.
const (
	newPrefix = ".new-"
	delPrefix = ".del-"
)

// removeAside takes a directory out of sight at once and then away. A crash
// between leaves it under a name that is cleared later.
func removeAside(dir string) error {
	parent, name := filepath.Split(dir)
	aside, err := os.MkdirTemp(parent, delPrefix+name+"-")
	if err != nil {
		return err
	}
	if err := os.Rename(dir, filepath.Join(aside, name)); err != nil {
		os.Remove(aside)
		return err
	}
	if err := syncDir(parent); err != nil {
		return err
	}
	return os.RemoveAll(aside)
}

// clearLeftovers removes what a crash left of makings and removals.
func clearLeftovers(dir string) error {
	var errs []error
	for _, prefix := range []string{newPrefix, delPrefix} {
		left, err := filepath.Glob(filepath.Join(dir, prefix+"*"))
		errs = append(errs, err)
		for _, l := range left {
			errs = append(errs, os.RemoveAll(l))
		}
	}
	return errors.Join(errs...)
}

// clearTemporaries removes what a crash left of the replacing of files: they are
// written under a name that begins with a dot, as no other file does.
func clearTemporaries(dir string) error {
	entries, err := os.ReadDir(dir)
	errs := []error{ignoreMissing(err)}
	for _, e := range entries {
		if e.Type().IsRegular() && e.Name()[0] == '.' {
			errs = append(errs, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
