package disk

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"vmfs/backends/hypervisor"
)

// A File is one file of a snapshot's directory, as the snapshot's manifest has it.
type File struct {
	Name string `json:"file"`
	Size int64  `json:"size"`
	Sum  string `json:"sum"` // of the content, see contentSum
}

// Sum reads a file in dir and describes it.
func Sum(ctx context.Context, dir, name string) (File, error) {
	size, sum, err := sum(ctx, filepath.Join(dir, name))
	return File{name, size, sum}, err
}

// Check returns nil if dir has the file as it was.
func (f *File) Check(ctx context.Context, dir string) error {
	if f.Name == "" || f.Name != filepath.Base(f.Name) || strings.HasPrefix(f.Name, ".") {
		return fmt.Errorf("snapshot %s: %q cannot be a file of it: %w", dir, f.Name, hypervisor.ErrInvalid)
	}
	now, err := Sum(ctx, dir, f.Name)
	path := filepath.Join(dir, f.Name)
	switch {
	case err != nil:
		return fmt.Errorf("snapshot: %w", err)
	case now.Size != f.Size:
		return fmt.Errorf("%s is damaged: it has %d bytes, and had %d: %w", path, now.Size, f.Size, hypervisor.ErrInvalid)
	case now.Sum != f.Sum:
		return fmt.Errorf("%s is damaged: its checksum is %.12s…, and was %.12s…: %w", path, now.Sum, f.Sum, hypervisor.ErrInvalid)
	}
	return nil
}

// A Saved is what a snapshot keeps of one disk: a copy of one that the guest can
// write; of a read-only one the mark by which it is known again.
type Saved struct {
	Copy *File     `json:"copy,omitempty"`
	Size int64     `json:"size,omitempty"`
	Time time.Time `json:"time,omitzero"`
}

// Mark describes a disk before anything is copied, and refuses one that cannot be.
func Mark(d hypervisor.DiskConfig) (Saved, error) {
	fi, err := os.Stat(d.Path)
	if err != nil {
		return Saved{}, fmt.Errorf("disk: %w", err)
	}
	if !d.Readonly && !fi.Mode().IsRegular() {
		return Saved{}, fmt.Errorf("disk %s is a block device that the guest can write, which a snapshot cannot hold: use an image file, or save it by other means: %w",
			d.Path, hypervisor.ErrNotSupported)
	}
	return Saved{Size: fi.Size(), Time: fi.ModTime()}, nil
}

// Save copies a disk into dir, as the file name.
func Save(ctx context.Context, image, dir, name string) (Saved, error) {
	size, sum, err := Copy(ctx, image, filepath.Join(dir, name), 0o600)
	return Saved{Copy: &File{name, size, sum}}, err
}

// Check returns nil if the snapshot in dir can give the disk image its content, or
// the image is the one that it had.
func (s *Saved) Check(ctx context.Context, dir, image string) error {
	if s.Copy != nil {
		return s.Copy.Check(ctx, dir)
	}
	fi, err := os.Stat(image)
	if err != nil {
		return fmt.Errorf("read-only disk of the snapshot: %w", err)
	}
	if fi.Size() != s.Size || !fi.ModTime().Equal(s.Time) {
		return fmt.Errorf("the read-only disk %s is not as it was at the snapshot: it had %d bytes of %s, now %d of %s: %w", image,
			s.Size, s.Time.Format(time.RFC3339Nano), fi.Size(), fi.ModTime().Format(time.RFC3339Nano), hypervisor.ErrInvalid)
	}
	return nil
}
