package agent

import "bytes"

// cursorQuery asks a terminal where its cursor is. busybox's line editor sends it
// with every prompt. On a serial console that is logged, or shown to people who
// only look on, each terminal behind it would answer, into somebody's shell.
var cursorQuery = []byte("\x1b[6n")

// queryFilter takes cursorQuery out of a stream. A beginning of it at the end of
// a chunk is held back until the next chunk decides.
type queryFilter struct{ held []byte }

// filter returns what is to be passed on of held bytes and chunk. The result is
// the caller's.
func (q *queryFilter) filter(chunk []byte) []byte {
	b := append(q.held, chunk...)
	b = bytes.ReplaceAll(b, cursorQuery, nil) // a copy
	q.held = nil
	for n := min(len(cursorQuery)-1, len(b)); n > 0; n-- {
		if bytes.HasSuffix(b, cursorQuery[:n]) {
			q.held = bytes.Clone(b[len(b)-n:])
			return b[:len(b)-n]
		}
	}
	return b
}
