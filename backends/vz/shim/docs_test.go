package shim

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/vz/shimapi"
)

// TestDocs holds the protocol's page to the methods and codes that there are.
func TestDocs(t *testing.T) {
	page, err := os.ReadFile("../../../docs/vz-shim.md")
	require.NoError(t, err)
	row := regexp.MustCompile(`(?m)^\| ([a-z]+) \|`)
	under := func(heading string) (words []string) {
		_, section, ok := strings.Cut(string(page), "\n## "+heading+"\n")
		require.True(t, ok, heading)
		section, _, _ = strings.Cut(section, "\n## ")
		for _, m := range row.FindAllStringSubmatch(section, -1) {
			words = append(words, m[1])
		}
		return words[1:] // the first is the table's head
	}
	want := []string{string(shimapi.MethodKill), string(shimapi.MethodEvents), string(shimapi.MethodCancel)}
	for m := range maps.Keys(methods) {
		want = append(want, string(m))
	}
	for m := range maps.Keys(endings) {
		want = append(want, string(m))
	}
	assert.ElementsMatch(t, want, under("Methods"))
	codes := under("Errors")
	slices.Sort(codes)
	assert.Equal(t, []string{
		string(shimapi.CodeBusy), string(shimapi.CodeCancelled), string(shimapi.CodeEnding), string(shimapi.CodeFailed), string(shimapi.CodeInvalid),
		string(shimapi.CodeProtocol), string(shimapi.CodeUnknown), string(shimapi.CodeUnsupported), string(shimapi.CodeVersion),
	}, codes)
}
