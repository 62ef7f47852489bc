package rundir

import "sync"

// A Kept is the record of a VM that runs, in memory and on disk. It may be changed by
// several goroutines at once: what is on disk is what the last of them made.
type Kept[R any] struct {
	write func(R) error

	writing sync.Mutex // held while the record is changed, until that is on disk; before mu

	mu  sync.Mutex // guards rec
	rec *R         // nil where there is none; replaced, never changed
}

// Keep keeps a record that was read, or is on disk already, nil where there is none.
// write replaces the one on disk.
func Keep[R any](rec *R, write func(R) error) *Kept[R] { return &Kept[R]{rec: rec, write: write} }

// Get returns the record, which is not to be changed, or nil where there is none.
func (k *Kept[R]) Get() *R {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.rec
}

// Change replaces the record, if there is one. An error means that it could not be
// written: it is changed all the same.
func (k *Kept[R]) Change(change func(*R)) error {
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
	return k.write(rec)
}
