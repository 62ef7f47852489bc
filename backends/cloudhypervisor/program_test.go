package cloudhypervisor

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/backends/starter"
)

func TestParseVersion(t *testing.T) {
	for out, want := range map[string]string{
		"cloud-hypervisor v53.0\nMigration Protocol Versions: 1\n": "53.0",
		"cloud-hypervisor v53.0-246-g0e085592b":                    "53.0-246-g0e085592b",
		"cloud-hypervisor v52.1.0 (x)":                             "52.1.0",
		"cloud-hypervisor 53":                                      "",
		"QEMU emulator version 7.2.22":                             "",
		"":                                                         "",
	} {
		assert.Equal(t, want, parseVersion(out), out)
	}
}

// versionOf makes a program that says one thing of itself.
func versionOf(t *testing.T, said string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cloud-hypervisor")
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n[ \"$*\" = --version ] && echo '"+said+"'\n"), 0o700))
	return path
}

func TestVersions(t *testing.T) {
	t.Setenv(programVariable, "")
	for said, c := range map[string]struct {
		version string
		is      error
		says    []string
	}{
		"cloud-hypervisor v53.0":         {version: "53.0"},
		"cloud-hypervisor v54.1-3-gabcd": {version: "54.1-3-gabcd"},
		"cloud-hypervisor v52.0":         {is: hypervisor.ErrNotSupported, says: []string{"52.0", "53.0 or later", releases}},
		"cloud-hypervisor v9.0":          {is: hypervisor.ErrNotSupported, says: []string{"9.0"}},
		"cloud-hypervisor vx":            {is: hypervisor.ErrNotSupported, says: []string{"53.0 or later"}},
		"bochs":                          {says: []string{"is not Cloud Hypervisor", "bochs"}},
	} {
		path := versionOf(t, said)
		s := New(Config{})
		paths := &hypervisor.Paths{Binaries: map[hypervisor.Type]string{hypervisor.TypeCloudHypervisor: path}}
		version, err := s.GetVersion(paths)
		assert.Equal(t, c.version, version, said)
		if c.version != "" {
			require.NoError(t, err, said)
			found, err := s.GetBinaryPath(paths, c.version[:2])
			require.NoError(t, err)
			assert.Equal(t, path, found)
			_, err = s.GetBinaryPath(paths, "v99")
			require.ErrorIs(t, err, hypervisor.ErrInvalid)
			continue
		}
		require.Error(t, err, said)
		if c.is != nil {
			require.ErrorIs(t, err, c.is, said)
		}
		for _, says := range append(c.says, path) {
			assert.ErrorContains(t, err, says)
		}
	}
}

// TestLookUp goes from the most special place to the last.
func TestLookUp(t *testing.T) {
	flag, env, inPath := versionOf(t, "cloud-hypervisor v55.0"), versionOf(t, "cloud-hypervisor v54.0"), versionOf(t, "cloud-hypervisor v53.0")
	own := versionOf(t, "cloud-hypervisor v56.0")
	s := New(Config{})
	paths := &hypervisor.Paths{Binaries: map[hypervisor.Type]string{hypervisor.TypeCloudHypervisor: flag}}
	config := hypervisor.VMConfig{Extras: map[string]string{keyBinary: own}}
	t.Setenv(programVariable, env)
	t.Setenv("PATH", filepath.Dir(inPath))
	prog, err := s.Program(t.Context(), starter.Request{Paths: paths}, config)
	require.NoError(t, err)
	assert.Equal(t, starter.Program{Path: own, Version: "56.0"}, prog)
	for _, c := range []struct {
		paths *hypervisor.Paths
		env   string
		want  string
	}{{paths, env, flag}, {nil, env, env}, {nil, "", inPath}} {
		t.Setenv(programVariable, c.env)
		path, err := s.GetBinaryPath(c.paths, "")
		require.NoError(t, err)
		assert.Equal(t, c.want, path)
	}
	t.Setenv("PATH", t.TempDir())
	_, err = s.GetBinaryPath(nil, "")
	require.ErrorIs(t, err, exec.ErrNotFound)
	for _, says := range []string{releases, "--cloud-hypervisor", "$" + programVariable} {
		assert.ErrorContains(t, err, says)
	}
}
