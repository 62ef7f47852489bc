package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"vmfs/backends/hypervisor"
)

// The files of a snapshot's directory, besides one for every writable disk.
const (
	manifestFile = "qemu-snapshot.json"
	memoryFile   = "qemu-memory"
)

const manifestFormat = "vmfs qemu snapshot 1"

// A manifest is what a snapshot consists of and what it takes to restore it. It
// is written when all else is on the disk: a directory without one is no snapshot.
type manifest struct {
	Format  string              `json:"format"`
	Time    time.Time           `json:"time"`
	Version string              `json:"version"` // of QEMU
	Machine string              `json:"machine"` // the versioned machine type
	Accel   string              `json:"accel"`
	CPU     string              `json:"cpu,omitempty"` // where it was set
	Config  hypervisor.VMConfig `json:"config"`
	// Mapped is whether the memory file is laid out for mapped-ram.
	Mapped bool        `json:"mapped,omitempty"`
	Memory savedFile   `json:"memory"`
	Disks  []savedDisk `json:"disks,omitempty"`
}

// A savedFile is a file of the snapshot.
type savedFile struct {
	File string `json:"file"`
	Size int64  `json:"size"`
	Sum  string `json:"sum"` // see contentSum
}

// A savedDisk is one disk of the VM: a copy in the snapshot if the guest can write
// it; else it is to be found unchanged where it was.
type savedDisk struct {
	Path string     `json:"path"`
	Copy *savedFile `json:"copy,omitempty"`
	// Of a read-only disk:
	Size int64     `json:"size,omitempty"`
	Time time.Time `json:"time,omitzero"`
}

func (m *manifest) write(dir string) error {
	b, err := json.MarshalIndent(m, "", "\t")
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(filepath.Join(dir, manifestFile), append(b, '\n'), 0o600); err != nil {
		return err
	}
	return syncDir(dir)
}

// readManifest reads a snapshot's manifest and checks that all that it names is
// there and as it was.
func readManifest(ctx context.Context, dir string) (*manifest, error) {
	b, err := os.ReadFile(filepath.Join(dir, manifestFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is no whole snapshot of QEMU: %w", dir, err)
	}
	if err != nil {
		return nil, err
	}
	var m manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", filepath.Join(dir, manifestFile), err, hypervisor.ErrInvalid)
	}
	if m.Format != manifestFormat {
		return nil, fmt.Errorf("%s: the format is %q, not %q: %w", filepath.Join(dir, manifestFile), m.Format, manifestFormat, hypervisor.ErrInvalid)
	}
	if len(m.Disks) != len(m.Config.Disks) {
		return nil, fmt.Errorf("%s: %d disks are saved of %d: %w", filepath.Join(dir, manifestFile), len(m.Disks), len(m.Config.Disks), hypervisor.ErrInvalid)
	}
	files := []*savedFile{&m.Memory}
	for i := range m.Disks {
		if c := m.Disks[i].Copy; c != nil {
			files = append(files, c)
		}
	}
	for _, f := range files {
		if err := f.check(ctx, dir); err != nil {
			return nil, err
		}
	}
	for _, d := range m.Disks {
		if d.Copy != nil {
			continue
		}
		fi, err := os.Stat(d.Path)
		if err != nil {
			return nil, fmt.Errorf("read-only disk of the snapshot: %w", err)
		}
		if fi.Size() != d.Size || !fi.ModTime().Equal(d.Time) {
			return nil, fmt.Errorf("the read-only disk %s was changed since the snapshot: it had %d bytes of %s, now %d of %s: %w", d.Path,
				d.Size, d.Time.Format(time.RFC3339Nano), fi.Size(), fi.ModTime().Format(time.RFC3339Nano), hypervisor.ErrInvalid)
		}
	}
	return &m, nil
}

func (f *savedFile) check(ctx context.Context, dir string) error {
	if f.File == "" || f.File != filepath.Base(f.File) || strings.HasPrefix(f.File, ".") {
		return fmt.Errorf("snapshot %s: %q is no file of it: %w", dir, f.File, hypervisor.ErrInvalid)
	}
	path := filepath.Join(dir, f.File)
	size, sum, err := sumFile(ctx, path)
	switch {
	case err != nil:
		return fmt.Errorf("snapshot: %w", err)
	case size != f.Size:
		return fmt.Errorf("%s is damaged: it has %d bytes, and had %d: %w", path, size, f.Size, hypervisor.ErrInvalid)
	case sum != f.Sum:
		return fmt.Errorf("%s is damaged: its checksum is %.12s…, and was %.12s…: %w", path, sum, f.Sum, hypervisor.ErrInvalid)
	}
	return nil
}
