package qemu

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// docTable reads the table below a heading of docs/qemu.md: the cells by the first.
func docTable(t *testing.T, heading string) map[string][]string {
	t.Helper()
	b, err := os.ReadFile("../../docs/qemu.md")
	require.NoError(t, err)
	_, section, ok := strings.Cut(string(b), "\n## "+heading+"\n")
	require.True(t, ok)
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

func TestDocs(t *testing.T) {
	want := map[string][]string{}
	for name, s := range runStates {
		want[name] = []string{string(s.state), s.reason}
	}
	assert.Equal(t, want, docTable(t, "States"))

	events := docTable(t, "Events")
	assert.ElementsMatch(t, slices.Collect(maps.Keys(eventRules)), slices.Collect(maps.Keys(events)))
	for name, rule := range eventRules {
		row := events[name]
		require.Len(t, row, 4, name)
		assert.Equal(t, string(rule.kind), row[0], name)
		if rule.state != "" {
			assert.Equal(t, string(rule.state), row[1], name)
		}
		if rule.reason != "" {
			assert.Equal(t, rule.reason, row[2], name)
		}
		for _, d := range rule.detail {
			assert.Contains(t, row[3], d.ours, name)
		}
	}

	keys := docTable(t, "Settings")
	assert.ElementsMatch(t, slices.Collect(maps.Keys(settingKeys)), slices.Collect(maps.Keys(keys)))
	for key, s := range settingKeys {
		if s.values != nil {
			assert.Equal(t, strings.Join(s.values, ", "), keys[key][0])
		}
	}
}
