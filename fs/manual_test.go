package fs

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestManual holds vmfs(4) to the tables: every file is there, with its help.
func TestManual(t *testing.T) {
	page, err := os.ReadFile("../docs/man/vmfs.4")
	require.NoError(t, err)
	entries := strings.Split(string(page), "\n.TP\n")
	for _, f := range append(RootFiles(), VMFiles()...) {
		assert.True(t, has(entries, f.Name, f.Help), "vmfs.4 has no %s with %q", f.Name, f.Help)
	}
}

var escapes = regexp.MustCompile(`\\f.|\n(\.[A-Z]+ )?`)

// has looks for an entry of a page that begins with the name and the help.
func has(entries []string, name, help string) bool {
	for _, e := range entries {
		head, text, _ := strings.Cut(e, "\n")
		text = strings.Join(strings.Fields(escapes.ReplaceAllString(text, " ")), " ")
		if strings.TrimSpace(strings.TrimPrefix(head, ".B ")) == name && strings.HasPrefix(text, help) {
			return true
		}
	}
	return false
}

// TestReadme holds the README's table of files to the table here.
func TestReadme(t *testing.T) {
	page, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	text := strings.ReplaceAll(string(page), "`", "")
	for _, f := range VMFiles() {
		assert.Contains(t, text, "| "+f.Name+" | "+f.Help+" |")
	}
}
