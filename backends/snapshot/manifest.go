package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"vmfs/backends/disk"
	"vmfs/backends/hypervisor"
	"vmfs/backends/stored"
	"vmfs/internal/durable"
	"vmfs/internal/regular"
)

// A Kind is the snapshots of one VMM.
type Kind struct {
	VMM     string   // its name, for messages
	File    string   // the manifest's
	Formats []string // of manifests, the oldest first; the last is the one that is written
}

// A Manifest is what a snapshot consists of and what it takes to restore it, as far
// as that is the same for all VMMs. One of a VMM's own embeds it. It is written when
// all else is on the disk: a directory without one is no snapshot.
type Manifest struct {
	Format  string        `json:"format"`
	Time    time.Time     `json:"time"`
	Version string        `json:"version"` // of the VMM
	Config  stored.Config `json:"config"`
	Disks   []disk.Saved  `json:"disks,omitempty"` // of Config.Disks, each
}

// Manifested is a pointer to a type that embeds Manifest.
type Manifested interface{ manifest() *Manifest }

func (m *Manifest) manifest() *Manifest { return m }

// Describe begins the manifest of a VM with what is known beforehand, and refuses
// disks that cannot be saved.
func (k Kind) Describe(config stored.Config, version string) (Manifest, error) {
	m := Manifest{Format: k.newest(), Time: time.Now(), Version: version, Config: config}
	for _, d := range config.Disks {
		mark, err := disk.Mark(d)
		if err != nil {
			return m, err
		}
		m.Disks = append(m.Disks, mark)
	}
	return m, nil
}

func (k Kind) newest() string { return k.Formats[len(k.Formats)-1] }

// maxManifest bounds a manifest: a configuration can have as much.
const maxManifest = 4 << 20

func (k Kind) write(dir string, m Manifested) error {
	b, err := json.MarshalIndent(m, "", "\t")
	if err != nil {
		return err
	}
	return durable.Replace(filepath.Join(dir, k.File), append(b, '\n'))
}

// Read reads a snapshot's manifest into m. What it names is not looked at: see Check.
func (k Kind) Read(dir string, m Manifested) error {
	path := filepath.Join(dir, k.File)
	b, err := regular.ReadFile(path, maxManifest)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is not a complete snapshot of %s: %w", dir, k.VMM, err)
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, m); err != nil {
		return fmt.Errorf("%s: %w: %w", path, err, hypervisor.ErrInvalid)
	}
	switch m := m.manifest(); {
	case !slices.Contains(k.Formats, m.Format):
		return fmt.Errorf("%s: the format is %q, and this version reads up to %q: %w", path, m.Format, k.newest(), hypervisor.ErrInvalid)
	case len(m.Disks) != len(m.Config.Disks):
		return fmt.Errorf("%s: it has %d disks, and the configuration in it %d: %w", path, len(m.Disks), len(m.Config.Disks), hypervisor.ErrInvalid)
	}
	return nil
}

// ConfigFor is the configuration to restore with: the saved one, or over laid over it
// where that is not nil (see stored.Lay).
func (m *Manifest) ConfigFor(over *hypervisor.VMConfig, settings ...string) (hypervisor.VMConfig, error) {
	if over == nil {
		return m.Config.VMConfig, nil
	}
	return stored.Lay(m.Config.VMConfig, *over, settings...)
}

// Check makes sure that all of the snapshot in dir is there and as it was: the VMM's
// own files, and what is saved of the disks, which are now those of config.
func (m *Manifest) Check(ctx context.Context, dir string, config hypervisor.VMConfig, files ...disk.File) error {
	for _, f := range files {
		if err := f.Check(ctx, dir); err != nil {
			return err
		}
	}
	for i := range m.Disks {
		if err := m.Disks[i].Check(ctx, dir, config.Disks[i].Path); err != nil {
			return err
		}
	}
	return nil
}
