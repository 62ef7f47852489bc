package qemu

import (
	"context"
	"fmt"
	"path/filepath"

	"vmfs/backends/disk"
	"vmfs/backends/hypervisor"
	"vmfs/backends/snapshot"
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

// snapshots are those of QEMU.
var snapshots = snapshot.Kind{VMM: "QEMU", File: manifestFile, Formats: []string{manifestFormat1, manifestFormat}}

// A manifest is what a snapshot consists of and what it takes to restore it.
type manifest struct {
	snapshot.Manifest
	Machine string `json:"machine"` // the versioned machine type
	Layout  layout `json:"layout"`
	Accel   string `json:"accel"`
	CPU     string `json:"cpu,omitempty"` // where it was set
	// Mapped is whether the memory file is laid out for mapped-ram.
	Mapped bool      `json:"mapped,omitempty"`
	Memory disk.File `json:"memory"`
}

// readManifest reads a snapshot's manifest. What it names is not looked at: see
// check.
func readManifest(dir string) (*manifest, error) {
	var m manifest
	if err := snapshots.Read(dir, &m); err != nil {
		return nil, err
	}
	if m.Layout > newestLayout {
		return nil, fmt.Errorf("%s: the layout of devices is %d, and this version knows up to %d: %w",
			filepath.Join(dir, manifestFile), m.Layout, newestLayout, hypervisor.ErrInvalid)
	}
	return &m, nil
}

// check makes sure that all that the manifest of the snapshot in dir names is there
// and as it was. The disks are those of config.
func (m *manifest) check(ctx context.Context, dir string, config hypervisor.VMConfig) error {
	return m.Check(ctx, dir, config, m.Memory)
}
