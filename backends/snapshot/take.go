package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"vmfs/backends/disk"
	"vmfs/backends/gate"
	"vmfs/backends/hypervisor"
	"vmfs/internal/regular"
)

// Busy says what keeps commands out while a snapshot is taken, in words for those.
const Busy = "a snapshot is being taken"

// A Saver takes the snapshots of one VM. Its fields say how that VM is handled.
type Saver struct {
	Log  *slog.Logger // names the VM
	Gate *gate.Gate
	// Life ends with the handle on the VM. For as long a snapshot goes on undoing what
	// it has done to the VM.
	Life context.Context
	// Spawn runs f beside the handle's callers, or says why it cannot.
	Spawn func(f func()) error
	// Stop has a running VM stand still, Go lets it go on. Go of one that runs is no
	// error.
	Stop, Go func(context.Context) error
	// Hold notes, also for a server to come, that a running VM stands still for a
	// snapshot alone, or that it does so no more.
	Hold func(held bool)
}

// A Taking is one snapshot being written into a directory.
type Taking struct {
	Dir   string
	saver *Saver
	made  []string // the files it has made
	// undo puts the VM back into the state it was in, the last step first.
	undo []func(context.Context) error
}

// Begin returns a snapshot that is to be written into dir, which need not be there.
func (s *Saver) Begin(dir string) *Taking { return &Taking{Dir: dir, saver: s} }

// Run takes the snapshot. Save does all for which the VM has to stand still: when it
// returns, the VM is put back as it was. Then finish does what the VM need not wait
// for, and writes the manifest. When either fails, or the VM cannot be put back, the
// files that were made are removed.
//
// All of it goes on beside the caller, who is let go a while after ctx has ended.
func (t *Taking) Run(ctx context.Context, save, finish func(context.Context) error) error {
	release, err := t.saver.Gate.Enter(ctx, Busy, false)
	if err != nil {
		return err
	}
	over := make(chan error, 1)
	// The VM must be put back even where the caller has gone, and that takes as
	// long as the VMM does.
	err = t.saver.Spawn(func() {
		err := t.run(ctx, save, finish)
		release()
		over <- err
	})
	if err != nil {
		release()
		return err
	}
	select {
	case err := <-over:
		return err
	case <-ctx.Done():
	}
	timer := time.NewTimer(cancelGrace)
	defer timer.Stop()
	select {
	case err := <-over:
		return err
	case <-timer.C:
		return fmt.Errorf("%w; the snapshot is being undone", ctx.Err())
	}
}

// cancelGrace is how long a cancelled snapshot may take to be taken back before
// its caller is let go.
const cancelGrace = 2 * time.Second

func (t *Taking) run(ctx context.Context, save, finish func(context.Context) error) error {
	err := save(ctx)
	if uerr := t.putBack(); uerr != nil {
		err = errors.Join(err, fmt.Errorf("the VM could not be put back as it was: %w", uerr))
	}
	if err == nil {
		err = finish(ctx)
	}
	if err != nil {
		for _, path := range t.made {
			if rerr := os.Remove(path); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
				err = errors.Join(err, rerr)
			}
		}
	}
	return err
}

// putBack undoes what was done to the VM. It goes on while the handle is there.
func (t *Taking) putBack() error {
	var errs []error
	for i := len(t.undo) - 1; i >= 0; i-- {
		errs = append(errs, t.undo[i](t.saver.Life))
	}
	t.undo = nil
	return errors.Join(errs...)
}

// Undo has f undo what is done to the VM next, with a context that outlives the
// caller's.
func (t *Taking) Undo(f func(context.Context) error) { t.undo = append(t.undo, f) }

// Still has a running VM stand still until it is put back.
func (t *Taking) Still(ctx context.Context) error {
	s := t.saver
	s.Hold(true)
	t.Undo(func(ctx context.Context) error {
		err := s.Go(ctx)
		if err == nil || ctx.Err() == nil { // else the next server lets it go on
			s.Hold(false)
		}
		return err
	})
	return s.Stop(ctx)
}

// Create makes a file of the snapshot, to be written only.
func (t *Taking) Create(name string) (*os.File, error) {
	if err := os.MkdirAll(t.Dir, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(t.Dir, name)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		t.made = append(t.made, path)
	}
	return f, err
}

// Expect makes the directory ready for files of these names, none of which may be
// there, and which the VMM makes.
func (t *Taking) Expect(names ...string) error {
	if err := os.MkdirAll(t.Dir, 0o700); err != nil {
		return err
	}
	var paths []string
	for _, name := range names {
		path := filepath.Join(t.Dir, name)
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return errors.Join(err, &fs.PathError{Op: "create", Path: path, Err: fs.ErrExist})
		}
		paths = append(paths, path)
	}
	t.made = append(t.made, paths...)
	return nil
}

// CopyDisks copies the disks that the guest can write into the snapshot. The VMM has
// written out all that the guest has, and writes nothing while the guest stands still.
func (t *Taking) CopyDisks(ctx context.Context, m *Manifest) error {
	for i, d := range m.Config.Disks {
		if d.Readonly {
			continue
		}
		name := "disk" + strconv.Itoa(i)
		copied, err := disk.Save(ctx, d.Path, t.Dir, name)
		if err != nil {
			return err
		}
		t.made = append(t.made, filepath.Join(t.Dir, name))
		m.Disks[i] = copied
	}
	return nil
}

// Sum sums a file of the snapshot while it gets to the disk.
func (t *Taking) Sum(ctx context.Context, name string) (disk.File, error) {
	synced := make(chan error, 1)
	go func() { synced <- syncFile(filepath.Join(t.Dir, name)) }()
	file, err := disk.Sum(ctx, t.Dir, name)
	return file, errors.Join(<-synced, err)
}

func syncFile(path string) error {
	f, err := regular.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// Progress is the event that tells how many bytes of a snapshot are written, of how many
// in all, and how many a second.
func Progress(done, total, rate int64) hypervisor.Event {
	e := hypervisor.Event{Kind: hypervisor.EventSnapshot, Time: time.Now()}
	for _, d := range []struct {
		key   string
		value int64
	}{{"done", done}, {"total", total}, {"rate", rate}} {
		e.Detail = append(e.Detail, hypervisor.Detail{Key: d.key, Value: strconv.FormatInt(d.value, 10)})
	}
	return e
}

// Finish writes the manifest m of a kind, with which the snapshot is whole.
func (t *Taking) Finish(k Kind, m Manifested) error {
	t.made = append(t.made, filepath.Join(t.Dir, k.File))
	return k.write(t.Dir, m)
}

// Recover lets a VM go on that a server had paused for a snapshot, and died. Settle,
// called first, ends what the VMM may still do for that snapshot.
func (s *Saver) Recover(settle func(context.Context) error) {
	release, err := s.Gate.Hold(Busy, false)
	if err != nil {
		return
	}
	defer release()
	if err = settle(s.Life); err == nil {
		err = s.Go(s.Life)
	}
	if err != nil {
		if s.Life.Err() == nil {
			s.Log.Error("a VM that was paused for a snapshot cannot be resumed", "err", err)
		}
		return
	}
	s.Hold(false)
}
