package ninep

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
)

// TestCutText: a long error is cut (intro(5)), and what is left is UTF-8.
func TestCutText(t *testing.T) {
	assert.Equal(t, "short", cutText("short", 5))
	assert.Equal(t, "", cutText("short", 0))
	for room := range 40 {
		got := cutText("x"+strings.Repeat("é€", 8), room)
		assert.True(t, utf8.ValidString(got), "%d: %q", room, got)
		assert.LessOrEqual(t, len(got), room)
		assert.Greater(t, len(got), room-3)
	}
	assert.Len(t, cutText(strings.Repeat("x", 1<<17), 1<<20), 1<<16-1, "no string of 9P is longer")
}
