package ctl

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/machine/config"
)

var (
	fonts  = regexp.MustCompile(`\\f.`)
	macros = regexp.MustCompile(`^\.(B|BI|I) `)
)

// entries reads the tagged paragraphs of vmfs-ctl(5): the tag without fonts, and
// the text on one line.
func entries(t *testing.T) map[string]string {
	t.Helper()
	page, err := os.ReadFile("../docs/man/vmfs-ctl.5")
	require.NoError(t, err)
	found := map[string]string{}
	for _, e := range strings.Split(string(page), "\n.TP\n")[1:] {
		head, text, _ := strings.Cut(e, "\n")
		text, _, _ = strings.Cut(text, "\n.PP\n")
		head = fonts.ReplaceAllString(macros.ReplaceAllString(head, ""), "")
		head = strings.ReplaceAll(head, `"`, "")
		found[strings.Join(strings.Fields(head), " ")] = strings.Join(strings.Fields(text), " ")
	}
	return found
}

// TestManual holds vmfs-ctl(5) to the tables of verbs and keys.
func TestManual(t *testing.T) {
	page := entries(t)
	for _, v := range VMVerbs() {
		assert.True(t, strings.HasPrefix(page[v.Usage()], v.Help), "%s: the page says %q, the table %q", v.Usage(), page[v.Usage()], v.Help)
	}
	for _, v := range serverTable {
		assert.True(t, strings.HasPrefix(page[v.Usage()], v.Help), "%s: the page says %q, the table %q", v.Usage(), page[v.Usage()], v.Help)
	}
	for _, k := range config.Keys() {
		// .BI puts a blank between key and value.
		head := k.Name + "= " + k.Value
		assert.True(t, strings.HasPrefix(page[head], k.Help), "%s: the page says %q, the table %q", head, page[head], k.Help)
		assert.Equal(t, k.Repeat, strings.Contains(page[head], "repeated"), head)
	}
}

// TestReadme holds the README's table of verbs to the table here.
func TestReadme(t *testing.T) {
	page, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	text := strings.ReplaceAll(string(page), "`", "")
	for _, v := range VMVerbs() {
		assert.Contains(t, text, "| "+v.Usage()+" | "+v.Help+" |")
	}
}
