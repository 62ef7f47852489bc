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
	"strconv"
	"syscall"

	"vmfs/internal/durable"
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
func Put(ctx context.Context, journal, dir string, images []string, saved []Saved) (s *Swap, err error) {
	s = &Swap{journal: journal}
	var fresh []string
	defer func() {
		for _, path := range fresh {
			err = errors.Join(err, remove(path))
		}
	}()
	for i, d := range saved {
		if d.Copy == nil {
			continue
		}
		image := images[i]
		if real, err := filepath.EvalSymlinks(image); err == nil {
			image = real // the link stays
		}
		path, kept := beside(image, "restored", i), beside(image, "before", i)
		if err := errors.Join(remove(path), remove(kept)); err != nil {
			return nil, err
		}
		if _, _, err := Copy(ctx, filepath.Join(dir, d.Copy.Name), path, 0o600); err != nil {
			return nil, fmt.Errorf("disk %s: %w", image, err)
		}
		fresh = append(fresh, path)
		switch there, err := likeness(image, path); {
		case err != nil:
			return nil, fmt.Errorf("disk %s: %w", image, err)
		case !there:
			kept = ""
		}
		s.list = append(s.list, swapped{image, kept})
	}
	if len(s.list) == 0 {
		return s, nil
	}
	if err := s.write(); err != nil {
		return nil, err
	}
	for i, x := range s.list {
		if x.Kept != "" {
			err = os.Link(x.Disk, x.Kept)
		}
		if err == nil {
			err = os.Rename(fresh[i], x.Disk)
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

func (s *Swap) write() error {
	b, err := json.MarshalIndent(s.list, "", "\t")
	if err != nil {
		return err
	}
	return durable.Replace(s.journal, append(b, '\n'))
}

// Pending returns what a killed server has left, nil if there is nothing.
func Pending(journal string) (*Swap, error) {
	b, err := os.ReadFile(journal)
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
		var err error
		gone := x.Disk
		if x.Kept != "" {
			err = durable.IgnoreMissing(os.Rename(x.Kept, x.Disk))
			gone = x.Kept // also where it was the disk yet: renaming that does nothing
		}
		if err == nil {
			err = remove(gone)
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("not every disk has back what it had before the restore: %w", err)
	}
	return remove(s.journal)
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

// beside names a file next to a disk.
func beside(disk, what string, i int) string {
	return filepath.Join(filepath.Dir(disk), "."+filepath.Base(disk)+"."+what+strconv.Itoa(i))
}

// likeness gives a file the owner and mode of another, if that is there.
func likeness(of, to string) (there bool, err error) {
	fi, err := os.Stat(of)
	if err != nil {
		return false, durable.IgnoreMissing(err)
	}
	if err := os.Chmod(to, fi.Mode().Perm()); err != nil {
		return true, err
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && (int(st.Uid) != os.Geteuid() || int(st.Gid) != os.Getegid()) {
		return true, os.Chown(to, int(st.Uid), int(st.Gid))
	}
	return true, nil
}
