package main

import (
	"log/slog"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
)

// TestBackendsPage holds docs/backends.md to what the back ends say of themselves: each
// has a column, and each capability a row in which only those have something that claim
// it. What was shown how is what the page alone can say, in one of five words.
func TestBackendsPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/backends.md")
	require.NoError(t, err)
	types := hypervisor.KnownTypes()
	head := "|  |"
	for _, typ := range types {
		head += " " + string(typ) + " |"
	}
	cell := regexp.MustCompile(`^(no|.+: (real|fake|type-checked|sim|no))$`)
	rows := make(map[string]map[hypervisor.Type]string)
	tables := 0
	for line := range strings.Lines(string(page)) {
		line = strings.TrimSpace(line)
		switch {
		case !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|---"):
			continue
		case strings.HasPrefix(line, "| |"):
			assert.Equal(t, head, strings.Replace(line, "| |", "|  |", 1))
			tables++
			continue
		}
		cells := strings.Split(strings.Trim(line, "| "), " | ")
		require.Len(t, cells, len(types)+1, line)
		row := make(map[hypervisor.Type]string)
		for i, typ := range types {
			text := cells[i+1]
			require.Regexp(t, cell, text, "%s of %s", cells[0], typ)
			row[typ] = text[strings.LastIndex(text, " ")+1:]
		}
		require.NotContains(t, rows, cells[0])
		rows[cells[0]] = row
		assert.Contains(t, []string{"fake", "type-checked", "no"}, row[hypervisor.TypeVZ], "%s: there is no Mac here", cells[0])
		assert.NotContains(t, []string{row[hypervisor.TypeQEMU], row[hypervisor.TypeCloudHypervisor], row[hypervisor.TypeSim]}, "type-checked", cells[0])
		assert.Contains(t, []string{"sim", "no"}, row[hypervisor.TypeSim], cells[0])
		assert.NotContains(t, []string{row[hypervisor.TypeQEMU], row[hypervisor.TypeCloudHypervisor]}, "sim", cells[0])
	}
	assert.Equal(t, 5, tables)

	registerBackends(slog.New(slog.DiscardHandler))
	has := map[hypervisor.Capability]string{
		hypervisor.CanPause: "`pause` and `resume`", hypervisor.CanSnapshot: "`snapshot`", hypervisor.CanHotplugMemory: "more `memory`",
		hypervisor.CanVsock: "`vsock`", hypervisor.CanGPUPassthrough: "`pci`", hypervisor.CanDiskIOLimit: "`bps:` and `burst:`",
	}
	all := hypervisor.Capabilities{
		SupportsSnapshot: true, SupportsHotplugMemory: true, SupportsPause: true, SupportsVsock: true, SupportsGPUPassthrough: true, SupportsDiskIOLimit: true,
	}
	for _, word := range all.Words() {
		row := rows[has[word]]
		require.NotNil(t, row, "a row for %s", word)
		for _, typ := range hypervisor.Types() {
			starter, ok := hypervisor.StarterFor(typ)
			require.True(t, ok)
			able := starter.(hypervisor.Capable).Capabilities(hypervisor.VMConfig{}).Has(word)
			switch {
			case able:
				assert.NotEqual(t, "no", row[typ], "%s is capable of %s", typ, word)
			case word != hypervisor.CanGPUPassthrough && word != hypervisor.CanVsock: // which are the host's affair too
				assert.Equal(t, "no", row[typ], "%s is not capable of %s", typ, word)
			}
		}
	}
}
