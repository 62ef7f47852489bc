package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestQEMUVersions holds README to what `make test-qemu` has written.
func TestQEMUVersions(t *testing.T) {
	table, err := os.ReadFile("../../docs/qemu-versions.md")
	require.NoError(t, err)
	var seen []string
	for _, m := range regexp.MustCompile(`(?m)^\| ([0-9.]+) \| (.+?) \|`).FindAllStringSubmatch(string(table), -1) {
		seen = append(seen, m[1]+" of "+m[2])
	}
	if seen == nil {
		seen = []string{"none"}
	}
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	assert.Contains(t, string(readme), "\nQEMU versions: "+strings.Join(seen, ", ")+"\n", "`make test-qemu` writes both")
}
