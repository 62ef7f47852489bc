package machine

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
	"vmfs/internal/durable"
	"vmfs/internal/regular"
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
	Format  int       `json:"format"`
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
	Backend      hypervisor.Type  `json:"hypervisor,omitempty"`
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

// The formats of record.json. A record is written in the last one.
const (
	recordBackend = 1 // has "backend" where later ones have "hypervisor"
	recordFormat  = 2
)

// MaxID is the last of the numbers of VMs: there is room for 28 bits in the paths of
// their files' qids.
const MaxID = 1<<28 - 1

// check finds what a record that could be parsed cannot be.
func (r *record) check() error {
	switch {
	case r.Format != recordBackend && r.Format != recordFormat:
		return fmt.Errorf("format is %d, this server knows %d to %d", r.Format, recordBackend, recordFormat)
	case r.ID == 0 || r.ID > MaxID:
		return fmt.Errorf("id is %d, not one of 1 to %d", r.ID, MaxID)
	case r.UUID == "":
		return errors.New("no uuid")
	}
	switch r.Phase {
	case phaseDown, phaseStarting, phaseRestoring, phaseRunning:
		return nil
	}
	return fmt.Errorf("unknown phase %q", r.Phase)
}

// maxFile bounds what is read of a VM as a whole: record, config, and those of a snapshot.
const maxFile = 4 << 20

func readRecord(path string) (record, error) {
	b, err := regular.ReadFile(path, maxFile)
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
	if r.Format == recordBackend {
		if r.Backend, err = oldBackend(b); err != nil {
			return record{}, fmt.Errorf("%s: %w", path, err)
		}
		r.Format = recordFormat
	}
	return r, nil
}

// oldBackend returns the back end of a record, or of a snapshot's, in the format
// recordBackend.
func oldBackend(b []byte) (hypervisor.Type, error) {
	var old struct {
		Backend hypervisor.Type `json:"backend"`
	}
	err := json.Unmarshal(b, &old)
	return old.Backend, err
}

func (r record) write(path string) error {
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return durable.Replace(path, append(b, '\n'))
}

// saveRecord changes the record on disk and then in memory, or neither.
func (v *VM) saveRecord(change func(*record)) error {
	v.disk.Lock()
	defer v.disk.Unlock()
	return v.saveRecordLocked(change)
}

// tryRecord is saveRecord where the VM goes on without.
func (v *VM) tryRecord(change func(*record)) {
	if err := v.saveRecord(change); err != nil {
		v.host.log.Error("cannot write the record", "vm", v.name, "err", err)
	}
}

// saveRecordLocked is saveRecord. The caller holds v.disk.
func (v *VM) saveRecordLocked(change func(*record)) error {
	v.order.Lock()
	seq := v.seq
	v.order.Unlock()
	v.mu.Lock()
	rec, deleted := v.rec, v.deleted
	v.mu.Unlock()
	if deleted {
		return ErrNotFound
	}
	change(&rec)
	rec.Seq = seq
	if err := rec.write(filepath.Join(v.dir, recordFile)); err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	v.mu.Lock()
	v.rec = rec
	v.mu.Unlock()
	return nil
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
