package fs

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"

	"vmfs/streams"
)

// streamFile is a fid on a file whose reads wait for what comes. Opening it may
// wait, too.
type streamFile struct {
	node
	row *row

	mu   sync.Mutex // guards what follows
	mode p9.OpenFlags
	st   streams.Stream // nil until opened
}

// Walk copies the fid.
func (f *streamFile) Walk(names []string) ([]p9.QID, p9.File, error) { return f.walkFile(names, f.row) }

// OpenCost tells the 9P server what the stream will hold.
func (f *streamFile) OpenCost(p9.OpenFlags) (bytes, descriptors int) {
	return streamBytes + f.row.holds.bytes, f.row.holds.descriptors
}

// OpenContext opens the stream. What comes from now on is not missed.
func (f *streamFile) OpenContext(ctx context.Context, mode p9.OpenFlags) (p9.QID, uint32, error) {
	if err := f.checkOpen(f.row.name, mode); err != nil {
		return p9.QID{}, 0, err
	}
	st, err := f.row.stream(ctx, &f.node, mode)
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
func (f *streamFile) opened(not p9.OpenFlags) (streams.Stream, error) {
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
	n, err := st.Read(ctx, p)
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
	n, err := st.Write(ctx, p)
	if err != nil {
		return 0, fail(err)
	}
	return n, nil
}

// WritesInParts tells whether it makes no difference how many bytes are written at
// a time.
func (f *streamFile) WritesInParts() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.st.(interface{ Bytes() })
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
		st.Close()
	}
	return nil
}
