package fs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/ctl"
)

// tables are the tables of files that the documents have, by their headings there.
var tables = []struct {
	manual, readme string
	files          []File
}{
	{".SS The root", "In the root:", RootFiles()},
	{".SS The directory of a VM", "## The files of a VM", VMFiles()},
}

// TestManual holds vmfs(4) to the tables: it has every file, with its help, and no
// other.
func TestManual(t *testing.T) {
	page, err := os.ReadFile("../docs/man/vmfs.4")
	require.NoError(t, err)
	for _, table := range tables {
		_, section, ok := strings.Cut(string(page), "\n"+table.manual+"\n")
		require.True(t, ok, table.manual)
		section, _, _ = strings.Cut(section, "\n.S")
		found := map[string]string{}
		for _, e := range strings.Split("\n"+section, "\n.TP\n")[1:] {
			head, text, _ := strings.Cut(e, "\n")
			name := strings.TrimSpace(strings.TrimPrefix(head, ".B "))
			found[name] = strings.Join(strings.Fields(escapes.ReplaceAllString(text, " ")), " ")
		}
		for _, f := range table.files {
			assert.True(t, strings.HasPrefix(found[f.Name], f.Help), "%s: the page says %q of %s, the table %q", table.manual, found[f.Name], f.Name, f.Help)
			delete(found, f.Name)
		}
		assert.Empty(t, found, "%s: files that there are not", table.manual)
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

// TestReadme holds the README's tables of files to the tables here, row by row.
func TestReadme(t *testing.T) {
	page, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	for _, table := range tables {
		_, section, ok := strings.Cut(string(page), table.readme+"\n\n| file | |\n|---|---|\n")
		require.True(t, ok, table.readme)
		rows, _, _ := strings.Cut(section, "\n\n")
		var want []string
		for _, f := range table.files {
			want = append(want, "| "+f.Name+" | "+f.Help+" |")
		}
		assert.Equal(t, strings.Join(want, "\n"), strings.ReplaceAll(rows, "`", ""), table.readme)
	}
}

// TestVocabulary holds docs/vocabulary.md to the tables of verbs, files and
// capabilities: it has all of them, and names no other.
func TestVocabulary(t *testing.T) {
	page, err := os.ReadFile("../docs/vocabulary.md")
	require.NoError(t, err)
	// column gives the words in backquotes of one column of the table with the heading.
	column := func(heading string, n int) map[string]bool {
		_, table, ok := strings.Cut(string(page), heading+"\n")
		require.True(t, ok, heading)
		table, _, _ = strings.Cut(table, "\n\n")
		words := map[string]bool{}
		for _, row := range strings.Split(table, "\n")[1:] {
			for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(strings.Split(row, "|")[n], -1) {
				words[m[1]] = true
			}
		}
		return words
	}
	want := map[string]bool{}
	for _, v := range ctl.VMVerbs() {
		want[v.Name] = true
	}
	assert.Equal(t, want, column("| contract | verb in ctl | other files | what it does |", 2), "verbs")
	want = map[string]bool{}
	all := hypervisor.Capabilities{
		SupportsSnapshot: true, SupportsHotplugMemory: true, SupportsPause: true,
		SupportsVsock: true, SupportsGPUPassthrough: true, SupportsDiskIOLimit: true,
	}
	for _, w := range all.Words() {
		want[string(w)] = true
	}
	assert.Equal(t, want, column("| Capabilities | word |", 2), "capabilities")
	files := map[string]bool{}
	for _, f := range VMFiles() {
		files[f.Name] = true
	}
	for name := range column("| contract or source | file | |", 2) {
		assert.True(t, files[name], "a VM has no file %s", name)
	}
	for _, s := range []hypervisor.VMState{hypervisor.StateCreated, hypervisor.StateRunning, hypervisor.StatePaused, hypervisor.StateShutdown} {
		assert.True(t, column("| contract | `state` | |", 2)[string(s)], s)
	}
}
