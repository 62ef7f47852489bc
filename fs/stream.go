package fs

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"
)

// stream is what a fid on a stream file reads and writes once it is open.
// Reads come one at a time, and so do writes; close comes last.
type stream interface {
	// read waits for something to read. io.EOF is the end.
	read(ctx context.Context, p []byte) (int, error)
	// write takes p, or as much of it as it could before it was cancelled. With
	// an error it took nothing that counts.
	write(ctx context.Context, p []byte) (int, error)
	// close does not block.
	close()
}

// A byteStream is a stream whose writes may be taken in parts.
type byteStream interface {
	stream
	bytes()
}

// opener opens a stream for what mode asks for.
type opener func(ctx context.Context, n *node, mode p9.OpenFlags) (stream, error)

// streamFile is a fid on a file whose reads wait for what comes. Opening it may
// wait, too.
type streamFile struct {
	node
	name string
	open opener

	mu   sync.Mutex // guards what follows
	mode p9.OpenFlags
	st   stream // nil until opened
}

// Walk copies the fid.
func (f *streamFile) Walk(names []string) ([]p9.QID, p9.File, error) {
	if len(names) > 0 {
		return nil, nil, linux.ENOTDIR
	}
	return []p9.QID{f.qid()}, &streamFile{node: f.node, name: f.name, open: f.open}, nil
}

// OpenContext opens the stream. What comes from now on is not missed.
func (f *streamFile) OpenContext(ctx context.Context, mode p9.OpenFlags) (p9.QID, uint32, error) {
	if err := f.checkOpen(f.name, mode); err != nil {
		return p9.QID{}, 0, err
	}
	st, err := f.open(ctx, &f.node, mode)
	if err != nil {
		return p9.QID{}, 0, fail(err)
	}
	f.mu.Lock()
	f.st, f.mode = st, mode
	f.mu.Unlock()
	return f.qid(), 0, nil
}

// Open is OpenContext for servers that know no contexts.
func (f *streamFile) Open(mode p9.OpenFlags) (p9.QID, uint32, error) {
	return f.OpenContext(context.Background(), mode)
}

// opened returns the stream if it was opened for what is wanted.
func (f *streamFile) opened(not p9.OpenFlags) (stream, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.st == nil || f.mode.Mode() == not {
		return nil, linux.EBADF
	}
	return f.st, nil
}

// ReadContext waits for something to read. The offset means nothing.
func (f *streamFile) ReadContext(ctx context.Context, p []byte, _ int64) (int, error) {
	st, err := f.opened(p9.WriteOnly)
	if err != nil {
		return 0, err
	}
	n, err := st.read(ctx, p)
	if n > 0 || errors.Is(err, io.EOF) {
		return n, nil
	}
	return 0, fail(err)
}

// WriteContext writes p. The offset means nothing.
func (f *streamFile) WriteContext(ctx context.Context, p []byte, _ int64) (int, error) {
	st, err := f.opened(p9.ReadOnly)
	if err != nil {
		return 0, err
	}
	n, err := st.write(ctx, p)
	if err != nil {
		return 0, fail(err)
	}
	return n, nil
}

// WritesInParts tells whether writes are bytes rather than commands, so that it
// makes no difference how many come at a time.
func (f *streamFile) WritesInParts() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.st.(byteStream)
	return ok
}

// ReadAt is ReadContext for servers that know no contexts.
func (f *streamFile) ReadAt(p []byte, off int64) (int, error) {
	return f.ReadContext(context.Background(), p, off)
}

// WriteAt is WriteContext for servers that know no contexts.
func (f *streamFile) WriteAt(p []byte, off int64) (int, error) {
	return f.WriteContext(context.Background(), p, off)
}

// Close ends the stream.
func (f *streamFile) Close() error {
	f.mu.Lock()
	st := f.st
	f.st = nil
	f.mu.Unlock()
	if st != nil {
		st.close()
	}
	return nil
}

// rest is the part of a record that a reader's buffer had no room for.
type rest []byte

// take moves what fits into p.
func (r *rest) take(p []byte) int {
	n := copy(p, *r)
	*r = (*r)[n:]
	return n
}
