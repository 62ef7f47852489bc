package rc

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestSplit(t *testing.T) {
	for _, c := range []struct {
		in   string
		want []string
	}{
		{"", nil},
		{" \t\n", nil},
		{"pause", []string{"pause"}},
		{"  memory\t1G \r\n", []string{"memory", "1G"}},
		{"snapshot 'it''s one word'", []string{"snapshot", "it's one word"}},
		{"a'b c'd", []string{"ab cd"}},
		{"''", []string{""}},
		{"'' x", []string{"", "x"}},
		{"''''", []string{"'"}},
		{"'a''b'", []string{"a'b"}},
		{`set args="x`, []string{"set", `args="x`}},
		{`a\ b`, []string{`a\`, "b"}},
		{"start # now", []string{"start"}},
		{"#all", nil},
		{"a#b '#c' #d", []string{"a#b", "#c"}},
		{"'line\nbreak'", []string{"line\nbreak"}},
	} {
		got, err := Split(c.in)
		require.NoError(t, err, "%q", c.in)
		assert.Equal(t, c.want, got, "%q", c.in)
	}
	for _, in := range []string{"'", "a 'b", "'a''", "x'y''z"} {
		_, err := Split(in)
		assert.ErrorIs(t, err, ErrQuote, "%q", in)
	}
}

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{
		"":      "''",
		"plain": "plain",
		"a b":   "'a b'",
		"it's":  "'it''s'",
		"#x":    "'#x'",
		"x#":    "x#",
		"a,b=c": "a,b=c",
	} {
		assert.Equal(t, want, Quote(in))
	}
}

func TestBrief(t *testing.T) {
	assert.Equal(t, "a short one", Brief("a short one", 11))
	assert.Equal(t, "abc…xyz", Brief("abcdefuvwxyz", 6))
	assert.Equal(t, "é…é", Brief("ééééé", 6), "no rune is cut")
}

func FuzzRoundTrip(f *testing.F) {
	f.Add("a", "b c")
	f.Add("'", "#")
	f.Add("", "\n")
	f.Fuzz(func(t *testing.T, a, b string) {
		got, err := Split(Quote(a) + " " + Quote(b))
		require.NoError(t, err)
		assert.Equal(t, []string{a, b}, got)
	})
}

func FuzzSplit(f *testing.F) {
	f.Add("set args='a ''b'' c' # d")
	f.Fuzz(func(t *testing.T, line string) {
		words, err := Split(line)
		if err != nil {
			assert.Equal(t, 1, strings.Count(line, "'")%2, "only an odd number of quotes can lack an end")
			return
		}
		quoted := make([]string, len(words))
		for i, w := range words {
			quoted[i] = Quote(w)
		}
		again, err := Split(strings.Join(quoted, " "))
		require.NoError(t, err)
		assert.Equal(t, words, again)
	})
}
