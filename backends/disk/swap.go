package disk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"vmfs/internal/durable"
	"vmfs/internal/regular"
)

// A Swap is disk images that were given other content, and where their own is kept
// until it is known to be of no more use. It is written down, in its journal, before
// the first image is touched, so that what a server was killed in can be taken back
// or settled by the next one.
type Swap struct {
	journal string
	list    []swapped
}

type swapped struct {
	Disk string `json:"disk"`
	Kept string `json:"kept,omitempty"` // "": the disk was not there
}

// Put gives the images the content that the snapshot in dir has of them: all is
// copied beside them first, and then moved into place. When it fails they are as
// they were.
func Put(ctx context.Context, journal, dir string, images []string, saved []Saved) (_ *Swap, err error) {
	s := &Swap{journal: journal}
	var all []*fresh
	defer func() {
		for _, f := range all {
			err = errors.Join(err, f.drop())
		}
	}()
	for i, d := range saved {
		if d.Copy == nil {
			continue
		}
		f, kept, err := prepare(ctx, filepath.Join(dir, d.Copy.Name), images[i], i)
		if f != nil {
			all = append(all, f)
		}
		if err != nil {
			return nil, fmt.Errorf("disk %s: %w", images[i], err)
		}
		s.list = append(s.list, swapped{f.path(), kept})
	}
	if len(s.list) == 0 {
		return s, nil
	}
	if err := s.write(); err != nil {
		return nil, err
	}
	for i, x := range s.list {
		f := all[i]
		if x.Kept != "" {
			err = f.dir.Link(f.place.name, filepath.Base(x.Kept))
		}
		if err == nil {
			err = f.put()
		}
		if err != nil {
			undone := Swap{journal, s.list[:i]}
			if x.Kept != "" {
				undone.list = s.list[:i+1]
			}
			return nil, errors.Join(fmt.Errorf("disk %s: %w", x.Disk, err), undone.TakeBack())
		}
	}
	return s, nil
}

// A fresh is a file beside an image that has the content which the image is to have.
type fresh struct {
	place
	file *os.File
	name string // in the place's directory; "" once it is the image
}

// prepare makes a file beside an image with the content of another file, and the owner and
// mode that the image has. Kept is where the image is to be kept, "" if it is not there. A
// fresh that is not nil is to be dropped, also with an error.
func prepare(ctx context.Context, content, image string, i int) (f *fresh, kept string, err error) {
	src, err := regular.Open(content)
	if err != nil {
		return nil, "", err
	}
	defer src.Close()
	p, err := placeOf(image)
	if err != nil {
		return nil, "", err
	}
	f = &fresh{place: p}
	aside, name := p.beside("before", i), p.beside("restored", i)
	if err := p.remove(aside); err != nil {
		return f, "", err
	}
	if f.file, err = p.create(name); err != nil {
		return f, "", err
	}
	f.name = name
	if _, _, err := fill(ctx, f.file, src); err != nil {
		return f, "", err
	}
	there, err := p.likeness(f.file)
	if there {
		kept = filepath.Join(p.dir.Name(), aside)
	}
	return f, kept, err
}

// put makes the file the image.
func (f *fresh) put() error {
	if err := f.is(f.name, f.file); err != nil {
		return err
	}
	if err := f.dir.Rename(f.name, f.place.name); err != nil {
		return err
	}
	f.name = ""
	return f.is(f.place.name, f.file)
}

// drop lets go of the file, and removes it where it is not the image.
func (f *fresh) drop() (err error) {
	if f.name != "" {
		err = f.remove(f.name)
	}
	if f.file != nil {
		_ = f.file.Close() // it was synced
	}
	f.close()
	return err
}

func (s *Swap) write() error {
	b, err := json.MarshalIndent(s.list, "", "\t")
	if err != nil {
		return err
	}
	return durable.Replace(s.journal, append(b, '\n'))
}

// maxJournal bounds a journal in bytes.
const maxJournal = 1 << 20

// Pending returns what a killed server has left, nil if there is nothing.
func Pending(journal string) (*Swap, error) {
	b, err := regular.ReadOwn(journal, maxJournal)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	s := &Swap{journal: journal}
	if err == nil {
		err = json.Unmarshal(b, &s.list)
	}
	if err != nil {
		return nil, fmt.Errorf("a restore was interrupted, and what the disks had before cannot be found: %s: %w", journal, err)
	}
	return s, nil
}

// TakeBack gives the disks of a restore that a killed server has left their own
// content again. No VMM must have them.
func TakeBack(journal string) error {
	s, err := Pending(journal)
	if s == nil || err != nil {
		return err
	}
	// What is where no disk was is left: it may be another by now.
	s.list = slices.DeleteFunc(s.list, func(x swapped) bool { return x.Kept == "" })
	return s.TakeBack()
}

// TakeBack gives the disks their own content again, where it was put aside already.
// It only renames and removes files.
func (s *Swap) TakeBack() error {
	var errs []error
	for _, x := range s.list {
		errs = append(errs, x.takeBack())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("not every disk has back what it had before the restore: %w", err)
	}
	return remove(s.journal)
}

func (x swapped) takeBack() error {
	dir, err := os.OpenRoot(filepath.Dir(x.Disk))
	if err != nil {
		return durable.IgnoreMissing(err)
	}
	p := place{dir, filepath.Base(x.Disk)}
	defer p.close()
	gone := p.name
	if x.Kept != "" {
		gone = filepath.Base(x.Kept) // also where it is the disk yet: renaming that does nothing
		if err := durable.IgnoreMissing(dir.Rename(gone, p.name)); err != nil {
			return err
		}
	}
	return p.remove(gone)
}

// Settle gives up what the disks had before.
func (s *Swap) Settle(log *slog.Logger) {
	if err := remove(s.journal); err != nil {
		log.Error("a restore that is done would be undone at the next start: remove this file", "path", s.journal, "err", err)
		return
	}
	for _, x := range s.list {
		if x.Kept == "" {
			continue
		}
		if err := remove(x.Kept); err != nil {
			log.Warn("what a disk had before a restore was not removed", "path", x.Kept, "err", err)
		}
	}
}

// remove removes a file, if it is there.
func remove(path string) error { return durable.IgnoreMissing(os.Remove(path)) }
