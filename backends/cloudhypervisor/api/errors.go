package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

var (
	// ErrNoVM means that the VMM runs and has no VM: none was created, or it was deleted.
	ErrNoVM = errors.New("the VMM has no VM")
	// ErrProtocol means that what answers is not Cloud Hypervisor's API.
	ErrProtocol = errors.New("not an answer of Cloud Hypervisor's API")
	// ErrClosed means that the client was closed.
	ErrClosed = errors.New("the client is closed")
)

// An Error is the VMM's refusal of a call.
type Error struct {
	Call   string   // the call, such as "vm.pause"
	Status int      // of HTTP. 500 is nearly everything, a wrong state included
	Words  []string // the VMM's own, from the most general to the most special
}

// Error tells what the VMM refuses and why, in one line: the last two of its words, which are
// the special ones. Those before say which call it was and which parts of the VMM it went through.
func (e *Error) Error() string {
	words := e.Words[max(0, len(e.Words)-2):]
	if len(e.Words) == 2 {
		words = words[1:] // the first says no more than that there was an error
	}
	var said []string
	for _, w := range words {
		w = plain(w)
		if w == "" || slices.ContainsFunc(said, func(s string) bool { return strings.Contains(s, w) }) {
			continue
		}
		said = slices.DeleteFunc(said, func(s string) bool { return strings.Contains(w, s) })
		said = append(said, w)
	}
	if len(said) == 0 {
		return fmt.Sprintf("Cloud Hypervisor refuses %s (status %d)", e.Call, e.Status)
	}
	return fmt.Sprintf("Cloud Hypervisor refuses %s: %s", e.Call, brief(strings.Join(said, ": ")))
}

// maxSaid bounds what is told of the VMM's words in bytes.
const maxSaid = 2000

func brief(s string) string {
	if len(s) <= maxSaid {
		return s
	}
	return strings.ToValidUTF8(s[:maxSaid], "") + "…"
}

// plain makes of one of the VMM's texts what fits into a sentence: on one line, without a full stop,
// with a small letter first where that is no name, and without what Rust adds: the number of a
// system's error, and a value that was printed behind the text, but for a sentence within that.
func plain(s string) string {
	s, trace, _ := strings.Cut(s, "\n\n") // what Rust adds of its stack
	s = strings.TrimRight(strings.Join(strings.Fields(s), " "), ".")
	if strings.HasSuffix(trace, ")") && strings.Count(s, "(") > strings.Count(s, ")") {
		s += ")"
	}
	if before, number, ok := strings.Cut(s, " (os error "); ok && strings.TrimLeft(number, "0123456789") == ")" {
		s = before
	}
	if before, value, ok := strings.Cut(s, ": "); ok {
		if held, ok := debugged(value); ok {
			s = before
			if strings.Count(held, " ") > 2 { // a sentence, and not what an enum holds
				s += ": " + held
			}
		}
	}
	first, n := utf8.DecodeRuneInString(s)
	if second, _ := utf8.DecodeRuneInString(s[n:]); unicode.IsUpper(first) && (unicode.IsLower(second) || second == ' ') {
		s = string(unicode.ToLower(first)) + s[n:]
	}
	return s
}

// debugged returns what a value holds that Rust's {:?} has printed of an enum: a name in camel case
// and a pair of brackets, as in "InvalidStateTransition(Paused, Paused)".
func debugged(s string) (held string, ok bool) {
	name, rest, ok := strings.Cut(s, "(")
	held, closed := strings.CutSuffix(rest, ")")
	if !ok || !closed || name == "" || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }) {
		return "", false
	}
	first, n := utf8.DecodeRuneInString(name)
	return held, unicode.IsUpper(first) && strings.ContainsFunc(name[n:], unicode.IsUpper)
}

// refusal makes an error of an answer whose status is none of success. The body is a JSON array
// of texts, an object with one of them (what the HTTP server itself says), or text.
func refusal(call string, status int, body []byte) *Error {
	e := &Error{Call: call, Status: status}
	var said struct {
		Error string `json:"error"`
	}
	switch {
	case json.Unmarshal(body, &e.Words) == nil:
	case json.Unmarshal(body, &said) == nil && said.Error != "":
		e.Words = []string{said.Error}
	default:
		e.Words = nil // of an array that has something else in it too
		if text := strings.TrimSpace(strings.ToValidUTF8(string(body), "\uFFFD")); text != "" {
			e.Words = []string{text}
		}
	}
	return e
}
