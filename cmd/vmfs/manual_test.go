package main

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestManual holds vmfs(1) to the commands: each is in the synopsis, with an
// entry of its own.
func TestManual(t *testing.T) {
	text, err := os.ReadFile("../../docs/man/vmfs.1")
	require.NoError(t, err)
	page := string(text)
	root, _ := newRoot()
	for _, c := range root.Commands() {
		if c.Hidden || c.Name() == "help" || c.Name() == "completion" {
			continue
		}
		name := c.Name()
		if c.HasSubCommands() {
			name += " build"
		}
		assert.True(t, strings.Contains(page, "\n.B vmfs "+name), "vmfs.1: no %s in the synopsis", name)
		assert.True(t, strings.Contains(page, "\n.TP\n.B "+name+"\n"), "vmfs.1: no entry for %s", name)
		assert.NotEmpty(t, c.Short, name)
		if !c.HasSubCommands() {
			assert.NotEmpty(t, c.Example, name)
		}
	}
	for _, flag := range []string{"listen", "state", "create-group", "qemu", "cloud-hypervisor", "log-level", "log-format"} {
		assert.Contains(t, strings.ReplaceAll(page, `\-`, "-"), "--"+flag)
	}
}
