package qemu

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor/hypervisortest"
)

// docTable reads a table of docs/qemu.md.
func docTable(t *testing.T, heading string) map[string][]string {
	return hypervisortest.DocTable(t, "../../docs/qemu.md", heading)
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
	for key, values := range settingKeys {
		if values != nil {
			assert.Equal(t, strings.Join(values, ", "), keys[key][0])
		}
	}
}
