package streams

import "context"

// A Stream is read and written as it comes. Reads come one at a time, and so do
// writes; Close comes last.
type Stream interface {
	// Read waits for something to read. io.EOF is the end.
	Read(ctx context.Context, p []byte) (int, error)
	// Write takes p, or as much of it as it could before it was cancelled. With
	// an error it took nothing that counts.
	Write(ctx context.Context, p []byte) (int, error)
	// Close does not block.
	Close()
}

// rest is the part of a line that a reader's buffer had no room for.
type rest []byte

// take moves what fits into p.
func (r *rest) take(p []byte) int {
	n := copy(p, *r)
	*r = (*r)[n:]
	return n
}

// readOnly is for streams that have nothing to write to.
type readOnly struct{}

func (readOnly) Write(context.Context, []byte) (int, error) { return 0, errReadOnly }
