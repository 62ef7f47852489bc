package fs

import (
	"context"
	"io"
	"sync"
	"sync/atomic"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"
)

// openTruncate is O_TRUNC of Linux, as in Tlopen (open(2)).
const openTruncate p9.OpenFlags = 0o1000

// textFile is a fid on a file whose content is made when it is read, and whose
// writes are commands.
type textFile struct {
	node
	row *row

	// truncated tells that the file was truncated after this fid opened it for
	// writing and before it wrote.
	truncated atomic.Bool
	stored    bool // see fidStore

	mu     sync.Mutex // guards what follows
	opened bool
	mode   p9.OpenFlags
	text   []byte // what offset 0 was read of
	have   bool
}

// WalkOne finds nothing below a file.
func (n *node) WalkOne(string) (p9.QID, p9.File, error) { return p9.QID{}, nil, linux.ENOTDIR }

// newText returns a fid on the file of a row.
func newText(n node, r *row) *textFile {
	f := n.s.fids.text()
	f.node, f.row = n, r
	return f
}

// Walk copies the fid.
func (f *textFile) Walk(names []string) ([]p9.QID, p9.File, error) {
	if len(names) > 0 {
		return nil, nil, linux.ENOTDIR
	}
	return []p9.QID{f.qid()}, newText(f.node, f.row), nil
}

// checkOpen refuses what neither the kind of file nor the VM's mode allows.
func (n *node) checkOpen(name string, mode p9.OpenFlags) error {
	if err := n.gone(); err != nil {
		return err
	}
	var want uint32
	if mode.Mode() != p9.WriteOnly {
		want |= mayRead
	}
	if mode.Mode() != p9.ReadOnly || mode&openTruncate != 0 {
		want |= mayWrite
	}
	if missing := want &^ (n.perm >> 6); missing != 0 {
		if missing&mayWrite != 0 {
			return failf(linux.EACCES, "open %s: %w: it can only be read", name, errAccess)
		}
		return failf(linux.EACCES, "open %s: %w: it can only be written", name, errAccess)
	}
	return n.may(want, "open", name)
}

// Open opens the file. A truncating open means something to config alone.
func (f *textFile) Open(mode p9.OpenFlags) (p9.QID, uint32, error) {
	if err := f.checkOpen(f.row.name, mode); err != nil {
		return p9.QID{}, 0, err
	}
	f.mu.Lock()
	f.opened, f.mode = true, mode
	f.mu.Unlock()
	if f.row.truncates && mode.Mode() != p9.ReadOnly {
		f.truncated.Store(mode&openTruncate != 0)
		f.s.truncs.add(f)
	}
	return f.qid(), 0, nil
}

// Close forgets the fid.
func (f *textFile) Close() error {
	if f.row.truncates {
		f.s.truncs.remove(f)
	}
	f.s.fids.putText(f)
	return nil
}

// ReadAt serves the content as it was when offset 0 was last read.
func (f *textFile) ReadAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.opened || f.mode.Mode() == p9.WriteOnly {
		return 0, linux.EBADF
	}
	if off == 0 || !f.have {
		if err := f.gone(); err != nil {
			return 0, err
		}
		text, err := f.row.read(f.text[:0], &f.node)
		if err != nil {
			return 0, fail(err)
		}
		f.text, f.have = text, true
	}
	if off < 0 || off >= int64(len(f.text)) {
		return 0, io.EOF
	}
	return copy(p, f.text[off:]), nil
}

// WriteContext carries out what is written. The offset means nothing: a shell
// that appends counts it up from wherever the file ended for it.
func (f *textFile) WriteContext(ctx context.Context, p []byte, _ int64) (int, error) {
	f.mu.Lock()
	ok := f.opened && f.mode.Mode() != p9.ReadOnly
	f.mu.Unlock()
	if !ok {
		return 0, linux.EBADF
	}
	if err := f.gone(); err != nil {
		return 0, err
	}
	replace := f.truncated.Swap(false)
	if err := f.row.write(ctx, &f.node, string(p), replace); err != nil {
		return 0, fail(err)
	}
	return len(p), nil
}

// WriteAt is WriteContext for servers that know no contexts.
func (f *textFile) WriteAt(p []byte, off int64) (int, error) {
	return f.WriteContext(context.Background(), p, off)
}
