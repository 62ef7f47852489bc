package rundir

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"github.com/google/renameio/v2"

	"vmfs/backends/process"
	"vmfs/backends/stored"
	"vmfs/internal/regular"
)

// A Record is what a server that was started anew needs to know of a VM and its VMM does
// not tell, as far as that is the same for all VMMs. One of a VMM's own embeds it, and has
// beside it what does not change while the VMM runs. It is written before that is started.
type Record struct {
	Format  int           `json:"format"`
	Config  stored.Config `json:"config"`
	Binary  string        `json:"binary"`
	Version string        `json:"version"`
	Args    []string      `json:"args"`
	Time    time.Time     `json:"time"` // of the start
	// Process is the VMM's, put down once it is known.
	Process *process.Process `json:"process,omitempty"`
	// Ran is whether the guest was let run: to its VMM one that was reset, or has ended,
	// may look as if it had not.
	Ran bool `json:"ran"`
	// Resume is set while a running VM is paused for a snapshot, so that a server
	// that finds it so can let it go on.
	Resume bool `json:"resume,omitempty"`
}

func (r *Record) common() *Record { return r }

// A Recorded is a pointer to an R, which embeds Record.
type Recorded[R any] interface {
	*R
	common() *Record
}

// Write replaces the record of a VM. It lasts as long as the VMM does, and so is not
// synced.
func Write[R any, P Recorded[R]](d Dir, rec P) error {
	rec.common().Format = d.kind.Newest // it may have been read of an older one
	b, err := json.MarshalIndent(rec, "", "\t")
	if err != nil {
		return err
	}
	return renameio.WriteFile(d.Record(), append(b, '\n'), 0o600)
}

// maxRecord bounds a record: a configuration can have as much.
const maxRecord = 4 << 20

// Read reads the record of a VM, or returns an error, which is fs.ErrNotExist where there
// is none.
func Read[R any, P Recorded[R]](d Dir) (*R, error) {
	path := d.Record()
	b, err := regular.ReadOwn(path, maxRecord)
	if err != nil {
		return nil, err
	}
	var is struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(b, &is); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if is.Format < d.kind.Oldest || is.Format > d.kind.Newest {
		return nil, fmt.Errorf("%s: the format is %d, and this version reads up to %d", path, is.Format, d.kind.Newest)
	}
	rec := new(R)
	if err := json.Unmarshal(b, rec); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return rec, nil
}

// Find is Read for who can do without. What is wrong with a record is logged.
func Find[R any, P Recorded[R]](d Dir, log *slog.Logger) *R {
	rec, err := Read[R, P](d)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn("what a VM was started with is not known", "err", err)
	}
	return rec
}

// A Kept is the record of a VM that runs, in memory and on disk. It may be changed by
// several goroutines at once: what is on disk is what the last of them made.
type Kept[R any, P Recorded[R]] struct {
	dir Dir

	writing sync.Mutex // held while the record is changed, until that is on disk; before mu

	mu  sync.Mutex // guards rec
	rec *R         // nil where there is none; replaced, never changed
}

// Keep keeps a record that was read, or is on disk already, nil where there is none.
func Keep[R any, P Recorded[R]](d Dir, rec *R) *Kept[R, P] { return &Kept[R, P]{dir: d, rec: rec} }

// Get returns the record, which is not to be changed, or nil where there is none.
func (k *Kept[R, P]) Get() *R {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.rec
}

// Common returns what of it is the same for all VMMs, or nil where there is none.
func (k *Kept[R, P]) Common() *Record {
	if rec := k.Get(); rec != nil {
		return P(rec).common()
	}
	return nil
}

// Change is ChangeAll of what is the same for all VMMs.
func (k *Kept[R, P]) Change(change func(*Record)) error {
	return k.ChangeAll(func(rec *R) { change(P(rec).common()) })
}

// ChangeAll replaces the record, if there is one. An error means that it could not be
// written: it is changed all the same.
func (k *Kept[R, P]) ChangeAll(change func(*R)) error {
	k.writing.Lock()
	defer k.writing.Unlock()
	k.mu.Lock()
	if k.rec == nil {
		k.mu.Unlock()
		return nil
	}
	rec := *k.rec
	change(&rec)
	k.rec = &rec
	k.mu.Unlock()
	return Write(k.dir, P(&rec))
}
