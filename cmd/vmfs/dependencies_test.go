package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestDependencies holds decision 003 to go.mod: each module that we use is in its
// table with what it is for, and no other.
func TestDependencies(t *testing.T) {
	out, err := exec.Command("go", "mod", "edit", "-json", "../../go.mod").Output()
	require.NoError(t, err)
	var mod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
		Tool []struct{ Path string }
	}
	require.NoError(t, json.Unmarshal(out, &mod))
	var used []string
	for _, r := range mod.Require {
		isTool := slices.ContainsFunc(mod.Tool, func(tool struct{ Path string }) bool { return strings.HasPrefix(tool.Path, r.Path+"/") })
		if !r.Indirect || isTool {
			used = append(used, r.Path)
		}
	}
	b, err := os.ReadFile("../../docs/decisions/003-dependencies.md")
	require.NoError(t, err)
	var told []string
	for line := range strings.Lines(string(b)) {
		cells := strings.Split(line, "|")
		if len(cells) != 5 || !strings.Contains(cells[1], ".") {
			continue
		}
		assert.NotEmpty(t, strings.TrimSpace(cells[2]), line)
		for _, module := range strings.Split(cells[1], ",") {
			told = append(told, strings.TrimSpace(module))
		}
	}
	assert.ElementsMatch(t, used, told)
}
