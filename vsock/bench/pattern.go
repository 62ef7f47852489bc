package bench

import (
	"bytes"
	"math/rand/v2"
)

// period is the length after which the pattern begins again: a prime, so that
// no buffer's length hides bytes that were lost or came twice.
const period = 65521

// patternBytes has the pattern from any offset on for chunk bytes.
var patternBytes = func() []byte {
	b := make([]byte, period+chunk)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range period {
		b[i] = byte(r.Uint32())
	}
	copy(b[period:], b)
	for done := 2 * period; done < len(b); {
		done += copy(b[done:], b[done-period:done])
	}
	return b
}()

// chunk is how many bytes are read and written at a time.
const chunk = 256 << 10

// at returns n bytes of the pattern, at most chunk, from an offset on.
func at(off int64, n int) []byte {
	i := int(off % period)
	return patternBytes[i : i+min(n, chunk)]
}

// matches returns whether p is what comes at an offset.
func matches(off int64, p []byte) bool { return bytes.Equal(p, at(off, len(p))) }
