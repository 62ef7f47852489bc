package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestKeep(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "vmfs")
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	program, cache := filepath.Join(dir, "x.test"), filepath.Join(dir, "cache")
	require.NoError(t, os.WriteFile(program, nil, 0o755))
	t.Setenv("VMFS_CLOUD_HYPERVISOR", program)
	t.Setenv("GOCACHE", cache) // is not there
	t.Setenv("OTHER", dir)
	t.Setenv("VMFS_WORD", "word")
	assert.Contains(t, keep("/", []string{"/bin/true"}), program)
	assert.NotContains(t, keep("/", []string{"/bin/true"}), cache)
	assert.NotContains(t, keep("/", []string{"/bin/true"}), dir)
	assert.NotContains(t, keep(dir, []string{program}), program, "below what is kept already")
	assert.NotContains(t, keep("/", []string{"/bin/true"}), "/bin/true", "it is there without")
}
