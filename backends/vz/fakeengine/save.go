package fakeengine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"vmfs/backends/vz/shimconfig"
)

// A saved is the file of a saved state.
type saved struct {
	// What has to be the same at a restore.
	Machine []byte   `json:"machine"`
	CPUs    int      `json:"cpus"`
	Memory  int64    `json:"memory"`
	Disks   int      `json:"disks"`
	MACs    []string `json:"macs"`
	Vsock   bool     `json:"vsock"`
	// Files are those of sim's snapshot.
	Files map[string][]byte `json:"files"`
}

func (m *Machine) describe() saved {
	s := saved{Machine: m.id, CPUs: m.config.CPUs, Memory: m.config.Memory, Disks: len(m.config.Disks), Vsock: m.config.Vsock != nil}
	for _, n := range m.config.Nets {
		s.MACs = append(s.MACs, n.MAC)
	}
	return s
}

// Save writes the state of a paused VM.
func (m *Machine) Save(path string) error {
	if err := m.engine.needs(shimconfig.FeatureSave, "saving the machine's state"); err != nil {
		return err
	}
	return m.move(CallSave, func() error { return m.save(path) })
}

func (m *Machine) save(path string) error {
	dir, err := os.MkdirTemp("", "fakeengine")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := m.there().hv.Snapshot(context.Background(), dir); err != nil {
		return err
	}
	s := m.describe()
	s.Files = make(map[string][]byte)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if s.Files[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}

// Restore reads a state into a stopped VM.
func (m *Machine) Restore(path string) error {
	if err := m.engine.needs(shimconfig.FeatureSave, "restoring the machine's state"); err != nil {
		return err
	}
	return m.move(CallRestore, func() error { return m.restore(path) })
}

func (m *Machine) restore(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var s saved
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	files := s.Files
	s.Files = nil
	was, err := json.Marshal(s)
	if err != nil {
		return err
	}
	is, err := json.Marshal(m.describe())
	if err != nil {
		return err
	}
	if !bytes.Equal(was, is) {
		return fmt.Errorf("the saved state is of another configuration: %s, and this is %s", was, is)
	}
	dir, err := os.MkdirTemp("", "fakeengine")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(name)), b, 0o600); err != nil {
			return err
		}
	}
	return m.boot(dir)
}
