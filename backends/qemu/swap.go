package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"github.com/google/renameio/v2"
)

// swaps are disks that a restore gives other content, and where their own is kept
// until the VM is there. They are written down before the first disk is touched, so
// that what a server was killed in can be taken back: by takeBack at the next start
// where no VM came of it, or else be settled by the server that finds the VM.
type swaps struct {
	dir  runDir
	list []swap
}

type swap struct {
	Disk string `json:"disk"`
	Kept string `json:"kept,omitempty"` // "": the disk was not there
}

// putDisks gives the disks the content that the snapshot in from has of them: all is
// copied beside them first, and then moved into place.
func (m *manifest) putDisks(ctx context.Context, run runDir, from string) (s *swaps, err error) {
	s = &swaps{dir: run}
	var fresh []string
	defer func() {
		for _, path := range fresh {
			if rerr := os.Remove(path); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
				err = errors.Join(err, rerr)
			}
		}
	}()
	for i, d := range m.Disks {
		if d.Copy == nil {
			continue
		}
		path := beside(d.Path, "restored", i)
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if _, _, err := copyFile(ctx, filepath.Join(from, d.Copy.File), path, 0o600); err != nil {
			return nil, fmt.Errorf("disk %s: %w", d.Path, err)
		}
		fresh = append(fresh, path)
		if err := likeness(d.Path, path); err != nil {
			return nil, fmt.Errorf("disk %s: %w", d.Path, err)
		}
		kept := beside(d.Path, "before", i)
		if err := os.Remove(kept); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if _, err := os.Lstat(d.Path); errors.Is(err, fs.ErrNotExist) {
			kept = "" // it was removed since
		}
		s.list = append(s.list, swap{d.Path, kept})
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
			undone := swaps{run, s.list[:i]}
			if x.Kept != "" {
				undone.list = s.list[:i+1]
			}
			return nil, errors.Join(fmt.Errorf("disk %s: %w", x.Disk, err), undone.takeBack())
		}
	}
	return s, nil
}

func (s *swaps) write() error {
	b, err := json.MarshalIndent(s.list, "", "\t")
	if err == nil {
		err = renameio.WriteFile(s.dir.swaps(), append(b, '\n'), 0o600)
	}
	if err == nil {
		err = syncDir(s.dir.dir)
	}
	return err
}

// readSwaps returns those that a killed server has left, nil if there are none.
func readSwaps(dir runDir) (*swaps, error) {
	b, err := os.ReadFile(dir.swaps())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	s := &swaps{dir: dir}
	if err == nil {
		err = json.Unmarshal(b, &s.list)
	}
	if err != nil {
		return nil, fmt.Errorf("the disks' content from before a restore that was interrupted: %s: %w", dir.swaps(), err)
	}
	return s, nil
}

// takeBack gives the disks of a restore that came to nothing their own content
// again. No QEMU must have them.
func (d runDir) takeBack() error {
	s, err := readSwaps(d)
	if s == nil || err != nil {
		return err
	}
	// What is where no disk was is left: it may be another by now.
	s.list = slices.DeleteFunc(s.list, func(x swap) bool { return x.Kept == "" })
	return s.takeBack()
}

// takeBack gives the disks their own content again, where it was put aside already.
func (s *swaps) takeBack() error {
	var errs []error
	for _, x := range s.list {
		var err error
		gone := x.Disk
		if x.Kept != "" {
			err = os.Rename(x.Kept, x.Disk)
			gone = x.Kept // also where it was the disk yet: renaming that does nothing
		}
		if err == nil {
			err = os.Remove(gone)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("the content that disks had before a restore is not back: %w", err)
	}
	return s.forget()
}

// forget removes what was written down.
func (s *swaps) forget() error {
	if err := os.Remove(s.dir.swaps()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// settle gives up what the disks had: the VM is there.
func (s *swaps) settle(log *slog.Logger) {
	if err := s.forget(); err != nil {
		log.Error("a restore that is done could be taken back at the next start: remove this file", "path", s.dir.swaps(), "err", err)
		return
	}
	for _, x := range s.list {
		if x.Kept == "" {
			continue
		}
		if err := os.Remove(x.Kept); err != nil && !errors.Is(err, fs.ErrNotExist) {
			log.Warn("the content that a disk had before a restore was not removed", "path", x.Kept, "err", err)
		}
	}
}

// beside names a file next to a disk.
func beside(disk, what string, i int) string {
	return filepath.Join(filepath.Dir(disk), "."+filepath.Base(disk)+"."+what+strconv.Itoa(i))
}

// likeness gives a file the owner and mode of another, if that is there.
func likeness(of, to string) error {
	fi, err := os.Stat(of)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := os.Chmod(to, fi.Mode().Perm()); err != nil {
		return err
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && (int(st.Uid) != os.Geteuid() || int(st.Gid) != os.Getegid()) {
		return os.Chown(to, int(st.Uid), int(st.Gid))
	}
	return nil
}
