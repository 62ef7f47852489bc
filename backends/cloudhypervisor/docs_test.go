package cloudhypervisor

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor/hypervisortest"
)

// TestDocs holds docs/cloud-hypervisor.md to the tables.
func TestDocs(t *testing.T) {
	table := func(heading string) map[string][]string {
		return hypervisortest.DocTable(t, "../../docs/cloud-hypervisor.md", heading)
	}
	want := map[string][]string{}
	for name, s := range states {
		want[string(name)] = []string{string(s.state), s.reason}
	}
	assert.Equal(t, want, table("States"))

	events := table("Events")
	told := maps.Clone(eventRules)
	maps.DeleteFunc(told, func(_ string, r eventRule) bool { return r.kind == "" })
	assert.ElementsMatch(t, slices.Collect(maps.Keys(told)), slices.Collect(maps.Keys(events)))
	for name, rule := range told {
		require.Len(t, events[name], 3, name)
		assert.Equal(t, string(rule.kind), events[name][0], name)
		if rule.state != "" {
			assert.Equal(t, string(rule.state), events[name][1], name)
		}
	}

	keys := table("Settings")
	assert.ElementsMatch(t, slices.Collect(maps.Keys(settingKeys)), slices.Collect(maps.Keys(keys)))
	for key, values := range settingKeys {
		if values != nil {
			assert.Equal(t, strings.Join(values, ", "), keys[key][0])
		}
	}
}
