// Package printable makes text of others fit to be shown: what clients, guests and
// hypervisors say ends up on terminals and in logs, where control characters move the
// cursor, type answers and hide what is there.
//
// Not printable are control characters (those above U+0080 included, which terminals obey
// like ESC), bytes that are no UTF-8, separators of lines and paragraphs, and what turns the
// direction of writing round.
//
// The package imports the standard library alone.
package printable

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Line returns s as one line: what is not printable in it is written as Go's quotes write
// it (\x1b, \u009b), but line breaks and tabs as a blank.
func Line(s string) string {
	return replace(s, func(r rune) (string, bool) {
		if r == '\n' || r == '\r' || r == '\t' {
			return " ", true
		}
		return "", false
	})
}

// Text is Line for a text that may have several lines.
func Text(s string) string {
	return replace(s, func(r rune) (string, bool) { return string(r), r == '\n' || r == '\t' })
}

// Check returns an error that names the first thing in s that cannot be shown in one line,
// but for tabs; nil if there is none.
func Check(s string) error {
	for i, r := range s {
		if n := sizeOf(s[i:], r); r != '\t' && !fit(r, n) {
			return fmt.Errorf("%s at byte %d: a control character, or no UTF-8", escape(s[i:i+n], r, n), i+1)
		}
	}
	return nil
}

// Bytes makes all of b printable in its place, for a part of a file whose bytes are
// numbered: what is not printable becomes so many question marks.
func Bytes(b []byte) {
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		if r != '\n' && r != '\t' && r != '\r' && !fit(r, n) {
			for j := range n {
				b[i+j] = '?'
			}
		}
		i += n
	}
}

// fit tells whether a rune that takes n bytes is printable.
func fit(r rune, n int) bool {
	switch {
	case ' ' <= r && r < 0x7f:
		return true
	case r == utf8.RuneError && n == 1, unicode.IsControl(r), r == '\u2028', r == '\u2029', unicode.Is(unicode.Bidi_Control, r):
		return false
	}
	return true
}

// sizeOf is how many bytes of s the rune takes that it begins with.
func sizeOf(s string, r rune) int {
	if r == utf8.RuneError {
		_, n := utf8.DecodeRuneInString(s)
		return n
	}
	return utf8.RuneLen(r)
}

// escape writes the rune that is s.
func escape(s string, r rune, n int) string {
	if n == 1 {
		return fmt.Sprintf(`\x%02x`, s[0])
	}
	return strings.Trim(strconv.QuoteRuneToASCII(r), "'")
}

// replace gives what keep says a rune is to be, and else escapes what is not printable.
func replace(s string, keep func(rune) (string, bool)) string {
	var b strings.Builder
	done := 0 // so much of s is in b, or is to be copied as it is
	for i, r := range s {
		n := sizeOf(s[i:], r)
		if fit(r, n) {
			continue
		}
		as, ok := keep(r)
		if !ok {
			as = escape(s[i:], r, n)
		}
		b.WriteString(s[done:i])
		b.WriteString(as)
		done = i + n
	}
	if done == 0 {
		return s
	}
	b.WriteString(s[done:])
	return b.String()
}
