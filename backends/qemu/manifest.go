package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"vmfs/backends/disk"
	"vmfs/backends/hypervisor"
	"vmfs/backends/stored"
	"vmfs/internal/durable"
)

// The files of a snapshot's directory, besides one for every writable disk.
const (
	manifestFile = "qemu-snapshot.json"
	memoryFile   = "qemu-memory"
)

// The formats of manifests. The first had VMConfig as it was, and no layouts.
const (
	manifestFormat1 = "vmfs qemu snapshot 1"
	manifestFormat  = "vmfs qemu snapshot 2"
)

// A manifest is what a snapshot consists of and what it takes to restore it. It
// is written when all else is on the disk: a directory without one is no snapshot.
type manifest struct {
	Format  string        `json:"format"`
	Time    time.Time     `json:"time"`
	Version string        `json:"version"` // of QEMU
	Machine string        `json:"machine"` // the versioned machine type
	Layout  layout        `json:"layout"`
	Accel   string        `json:"accel"`
	CPU     string        `json:"cpu,omitempty"` // where it was set
	Config  stored.Config `json:"config"`
	// Mapped is whether the memory file is laid out for mapped-ram.
	Mapped bool         `json:"mapped,omitempty"`
	Memory disk.File    `json:"memory"`
	Disks  []disk.Saved `json:"disks,omitempty"` // of Config.Disks, each
}

func (m *manifest) write(dir string) error {
	b, err := json.MarshalIndent(m, "", "\t")
	if err != nil {
		return err
	}
	return durable.Replace(filepath.Join(dir, manifestFile), append(b, '\n'))
}

// readManifest reads a snapshot's manifest. What it names is not looked at: see
// check.
func readManifest(dir string) (*manifest, error) {
	path := filepath.Join(dir, manifestFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is not a complete snapshot of QEMU: %w", dir, err)
	}
	if err != nil {
		return nil, err
	}
	var m manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", path, err, hypervisor.ErrInvalid)
	}
	switch {
	case m.Format != manifestFormat && m.Format != manifestFormat1:
		return nil, fmt.Errorf("%s: the format is %q, and this version reads up to %q: %w", path, m.Format, manifestFormat, hypervisor.ErrInvalid)
	case m.Layout > newestLayout:
		return nil, fmt.Errorf("%s: the layout of devices is %d, and this version knows up to %d: %w", path, m.Layout, newestLayout, hypervisor.ErrInvalid)
	case len(m.Disks) != len(m.Config.Disks):
		return nil, fmt.Errorf("%s: it has %d disks, and the configuration in it %d: %w", path, len(m.Disks), len(m.Config.Disks), hypervisor.ErrInvalid)
	}
	return &m, nil
}

// check makes sure that all that the manifest of the snapshot in dir names is there
// and as it was. The disks are where the configuration says.
func (m *manifest) check(ctx context.Context, dir string, images []string) error {
	if err := m.Memory.Check(ctx, dir); err != nil {
		return err
	}
	for i := range m.Disks {
		if err := m.Disks[i].Check(ctx, dir, images[i]); err != nil {
			return err
		}
	}
	return nil
}

// imagesOf returns the paths of a VM's disks.
func imagesOf(c hypervisor.VMConfig) (paths []string) {
	for _, d := range c.Disks {
		paths = append(paths, d.Path)
	}
	return paths
}
