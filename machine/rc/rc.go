// Package rc splits and quotes words as Plan 9's rc shell and tokenize(2) do.
//
// Words are separated by blanks. A single quote starts a quoted part, in which
// blanks mean nothing and two quotes stand for one; a quoted part may be a whole
// word or a piece of one, so both of these are one word each:
//
//	'it''s one word'
//	it''''s
//
// A # at the start of a word makes the rest of the line a comment. Nothing else
// is special: no backslash, no double quote, no variable.
//
// The package is a leaf: it imports the standard library only.
package rc

import (
	"errors"
	"strings"
)

// ErrQuote means that a quoted part has no end.
var ErrQuote = errors.New("quote without an end (a quote is written '' inside quotes)")

func isBlank(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

// Split returns the words of one line.
func Split(line string) ([]string, error) {
	var words []string
	for i := 0; ; {
		for i < len(line) && isBlank(line[i]) {
			i++
		}
		if i == len(line) || line[i] == '#' {
			return words, nil
		}
		word, n, err := next(line[i:])
		if err != nil {
			return nil, err
		}
		words = append(words, word)
		i += n
	}
}

// next returns the word that s starts with and its length in s.
func next(s string) (string, int, error) {
	var b strings.Builder
	for i := 0; i < len(s); {
		switch c := s[i]; {
		case isBlank(c):
			return b.String(), i, nil
		case c != '\'':
			b.WriteByte(c)
			i++
		default:
			for i++; ; i++ {
				if i == len(s) {
					return "", 0, ErrQuote
				}
				if s[i] == '\'' {
					if i+1 == len(s) || s[i+1] != '\'' {
						break
					}
					i++
				}
				b.WriteByte(s[i])
			}
			i++
		}
	}
	return b.String(), len(s), nil
}

// Quote returns s as one word that Split gives back unchanged: s itself where
// nothing in it is special. A line break inside s stays one, so what is to be
// kept in a file of lines must have none.
func Quote(s string) string {
	if s != "" && s[0] != '#' && !strings.ContainsAny(s, " \t\r\n'") {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", "''") + "'"
}

// Brief is s for a message: of more than n bytes the middle is left out, since what
// is wrong with a text is mostly at one of its ends.
func Brief(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n/2], "") + "…" + strings.ToValidUTF8(s[len(s)-n/2:], "")
}
