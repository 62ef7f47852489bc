package wire

import (
	"strconv"
	"strings"
)

// Dialect is a set of dialects; a session has one.
type Dialect uint8

const (
	Plan9   Dialect = 1 << iota // 9P2000
	Unix                        // 9P2000.u
	Linux                       // 9P2000.L
	Google2                     // 9P2000.L.Google.2 and up, beside Linux
	Google3                     // 9P2000.L.Google.3 and up, beside Linux

	Any    = Plan9 | Unix | Linux
	Legacy = Plan9 | Unix // what Linux replaced
)

// Is reports whether d is, or has, one of those.
func (d Dialect) Is(of Dialect) bool { return d&of != 0 }

// Name is what a dialect calls a message.
func (d Dialect) Name(t Type) string { return d.message(t).name }

// maxGoogle is the highest N of 9P2000.L.Google.N that p9's client knows.
const maxGoogle = 7

// Negotiate finds the dialect for a client's version string, and the string to
// answer, as version(5) tells: what follows a period may be stripped, an earlier
// version than the client's may be answered, and "unknown" is for all else.
func Negotiate(version string) (d Dialect, answer string, ok bool) {
	switch version {
	case "9P2000":
		return Plan9, version, true
	case "9P2000.u":
		return Unix, version, true
	case "9P2000.L":
		return Linux, version, true
	}
	if n, ok := strings.CutPrefix(version, "9P2000.L.Google."); ok {
		if n, err := strconv.ParseUint(n, 10, 32); err == nil && n > 0 {
			d, n := Linux, min(n, maxGoogle)
			if n >= 2 {
				d |= Google2
			}
			if n >= 3 {
				d |= Google3
			}
			return d, "9P2000.L.Google." + strconv.FormatUint(n, 10), true
		}
	}
	if i := strings.LastIndexByte(version, '.'); i >= 0 {
		return Negotiate(version[:i])
	}
	// A later protocol than we know: its number is a year's.
	if n, ok := strings.CutPrefix(version, "9P"); ok && len(n) >= 4 {
		if n, err := strconv.ParseUint(n, 10, 32); err == nil && n > 2000 {
			return Plan9, "9P2000", true
		}
	}
	return 0, "unknown", false
}
