package sim

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"vmfs/backends/hypervisor"
	"vmfs/backends/stored"
)

const (
	manifestFile = "sim-snapshot.json"
	memoryFile   = "sim-memory"
	// The first format had VMConfig as it was.
	snapshotFormat1 = "vmfs sim snapshot 1"
	snapshotFormat  = "vmfs sim snapshot 2"
)

// A manifest is what a snapshot's directory says of its VM. It is written after
// the memory, so that a directory with one is whole.
type manifest struct {
	Format string        `json:"format"`
	Config stored.Config `json:"config"`
	Reason string        `json:"reason,omitempty"`
	Target int64         `json:"target"`
	Actual int64         `json:"actual"`
	Booted bool          `json:"booted"`
	// Memory is the SHA-256 of the memory file.
	Memory string `json:"memory"`

	note string // what is in the guest's memory, and so in the memory file
}

// manifest describes the VM as it is. vm.mu is held.
func (vm *VM) manifest() *manifest {
	config := vm.config
	config.Disks = vm.disks
	return &manifest{
		Format: snapshotFormat, Config: stored.Config{VMConfig: config}, Reason: vm.reason,
		Target: vm.target, Actual: vm.actual, Booted: vm.booted,
		Memory: digest([]byte(vm.note)), note: vm.note,
	}
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// write writes the snapshot into dir. When it fails, none of its files is left.
func (m *manifest) write(ctx context.Context, dir string) (err error) {
	text, err := json.MarshalIndent(m, "", "\t")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var written []string
	defer func() {
		if err != nil {
			for _, path := range written {
				err = errors.Join(err, os.Remove(path))
			}
		}
	}()
	for _, file := range []struct {
		name string
		data []byte
	}{{memoryFile, []byte(m.note)}, {manifestFile, append(text, '\n')}} {
		if err := ctx.Err(); err != nil {
			return err
		}
		path := filepath.Join(dir, file.name)
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		written = append(written, path)
		_, err = f.Write(file.data)
		if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// readSnapshot reads what write wrote.
func readSnapshot(dir string) (*manifest, error) {
	text, err := os.ReadFile(filepath.Join(dir, manifestFile))
	if err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	var m manifest
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, fmt.Errorf("snapshot %s: %w: %w", dir, err, hypervisor.ErrInvalid)
	}
	if m.Format != snapshotFormat && m.Format != snapshotFormat1 {
		return nil, fmt.Errorf("snapshot %s: the format is %q, and this version reads up to %q: %w", dir, m.Format, snapshotFormat, hypervisor.ErrInvalid)
	}
	memory, err := os.ReadFile(filepath.Join(dir, memoryFile))
	if err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	if digest(memory) != m.Memory {
		return nil, fmt.Errorf("snapshot %s: the memory file is damaged: %w", dir, hypervisor.ErrInvalid)
	}
	m.note = string(memory)
	return &m, nil
}
