package printable

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
)

func TestLine(t *testing.T) {
	for in, want := range map[string]string{
		"":                          "",
		"plain text, ä and 日本":      "plain text, ä and 日本",
		"two\nlines\tand\r\nmore":   "two lines and  more",
		"\x1b[2J":                   `\x1b[2J`,
		"nul\x00del\x7f":            `nul\x00del\x7f`,
		"csi\u009b31m":              `csi\u009b31m`,
		"latin\x9b1":                `latin\x9b1`,
		"cut \xe6\x97":              `cut \xe6\x97`,
		"back\\slash":               `back\slash`,
		"\u202egnp.exe":             `\u202egnp.exe`,
		"para\u2029graph":           `para\u2029graph`,
		"a real \ufffd of its sort": "a real \ufffd of its sort",
	} {
		assert.Equal(t, want, Line(in), "%q", in)
		assert.Equal(t, strings.ContainsAny(in, "\n\t") || want == in, Check(in) == nil || strings.ContainsAny(in, "\n"), "%q", in)
	}
	assert.Equal(t, "two\nlines\tand\\x0d\\x1b", Text("two\nlines\tand\r\x1b"))
	assert.ErrorContains(t, Check("/x\x1b"), `\x1b at byte 3`)
	assert.NoError(t, Check("a\tb"))
	assert.Error(t, Check("a\nb"))
}

func TestBytes(t *testing.T) {
	b := []byte("a\x1b[0m\u009b\xff\nä\x00")
	n := len(b)
	Bytes(b)
	assert.Equal(t, "a?[0m???\nä?", string(b))
	assert.Len(t, b, n)
}

// FuzzLine holds that nothing gets through, and that what is printable stays as it is.
func FuzzLine(f *testing.F) {
	f.Add("\x1b]0;x\x07\u009b\xff\u202e\n")
	f.Fuzz(func(t *testing.T, s string) {
		for _, out := range []string{Line(s), Text(s)} {
			assert.True(t, utf8.ValidString(out), "%q", out)
			for _, r := range out {
				assert.False(t, r != '\n' && r != '\t' && unicode.IsControl(r), "%q", out)
			}
			assert.Equal(t, out, Text(out), "once is enough")
		}
		assert.NotContains(t, Line(s), "\n")
		if Check(s) == nil {
			assert.Equal(t, strings.ReplaceAll(s, "\t", " "), Line(s))
		}
		b := []byte(s)
		Bytes(b)
		assert.Len(t, b, len(s))
	})
}
