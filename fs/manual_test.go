package fs

import (
	"os"
	"path/filepath"
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

// TestManualErrors holds vmfs(4)'s list of errors to what the tree and the 9P server
// give, and to docs/errors.md.
func TestManualErrors(t *testing.T) {
	page, err := os.ReadFile("../docs/man/vmfs.4")
	require.NoError(t, err)
	_, list, ok := strings.Cut(string(page), "\n.SH ERRORS\n")
	require.True(t, ok)
	list, _, _ = strings.Cut(list, "\n.SH ")
	sources, err := filepath.Glob("../ninep/*.go")
	require.NoError(t, err)
	own, err := filepath.Glob("*.go")
	require.NoError(t, err)
	seen := map[string]bool{
		"EAGAIN": true, "ENOSYS": true, // of which ninep makes another
	}
	for _, file := range append(append(sources, own...), "../docs/errors.md") {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, m := range regexp.MustCompile(`(?:linux\.|syscall\.|\| )(E[A-Z0-9]{3,})\b`).FindAllStringSubmatch(string(text), -1) {
			if errno := m[1]; !seen[errno] {
				seen[errno] = true
				assert.Regexp(t, `(?m)^\.BR? .*\b`+errno+`\b`, list, "vmfs.4 says nothing of %s, which %s gives", errno, file)
			}
		}
	}
	assert.Greater(t, len(seen), 30)
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
