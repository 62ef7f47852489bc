package vz

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"vmfs/backends/hypervisor/hypervisortest"
)

// TestDocs holds docs/vz.md to the tables.
func TestDocs(t *testing.T) {
	table := func(heading string) map[string][]string {
		return hypervisortest.DocTable(t, "../../docs/vz.md", heading)
	}
	want := map[string][]string{}
	for phase, s := range states {
		want[string(phase)] = []string{string(s.state), s.reason}
	}
	assert.Equal(t, want, table("States"))

	want = map[string][]string{}
	for kind, k := range kinds {
		want[string(kind)] = []string{string(k.kind), string(k.state)}
	}
	assert.Equal(t, want, table("Events"))

	keys := table("Settings")
	assert.Len(t, keys, len(settingKeys))
	for key, values := range settingKeys {
		if assert.Contains(t, keys, key) && values != nil {
			assert.Equal(t, strings.Join(values, ", "), keys[key][0])
		}
	}
}
