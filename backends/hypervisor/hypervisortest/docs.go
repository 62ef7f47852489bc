package hypervisortest

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// DocTable reads the table below a heading of a document: the cells by the first. Back ends
// hold their tables to what they do.
func DocTable(t testing.TB, path, heading string) map[string][]string {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	_, section, ok := strings.Cut(string(b), "\n## "+heading+"\n")
	require.True(t, ok, heading)
	section, _, _ = strings.Cut(section, "\n## ")
	rows := map[string][]string{}
	n := 0
	for line := range strings.Lines(section) {
		if !strings.HasPrefix(line, "|") {
			continue
		}
		if n++; n <= 2 {
			continue
		}
		var cells []string
		for _, c := range strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|") {
			cells = append(cells, strings.TrimSpace(c))
		}
		_, twice := rows[cells[0]]
		require.False(t, twice, cells[0])
		rows[cells[0]] = cells[1:]
	}
	return rows
}
