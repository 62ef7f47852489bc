package fs

import (
	"context"
	"io"
	"sync"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"

	"vmfs/internal/printable"
)

// openTruncate is O_TRUNC of Linux, as in Tlopen (open(2)).
const openTruncate p9.OpenFlags = 0o1000

// textFile is a fid on a file whose content is made when it is read, and whose
// writes are commands.
type textFile struct {
	node
	row    *row
	stored bool // see fidStore

	mu     sync.Mutex // guards what follows
	opened bool
	mode   p9.OpenFlags
	answer answer
}

// An answer is what a fid reads: its file's content as it was when offset 0 was
// last read, or why its last write failed, until the next write.
type answer struct {
	have   bool
	text   []byte
	failed bool
	at     int64 // the offset at which the text begins; -1 is that of the next read
}

// WalkOne finds nothing below a file.
func (n *node) WalkOne(string) (p9.QID, p9.File, error) { return p9.QID{}, nil, linux.ENOTDIR }

// walkFile copies a fid on a file.
func (n *node) walkFile(names []string, r *row) ([]p9.QID, p9.File, error) {
	if len(names) > 0 {
		return nil, nil, linux.ENOTDIR
	}
	return []p9.QID{n.qid()}, newFile(*n, r), nil
}

// Walk copies the fid.
func (f *textFile) Walk(names []string) ([]p9.QID, p9.File, error) { return f.walkFile(names, f.row) }

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
		can := "written"
		if missing&mayWrite != 0 {
			can = "read"
		}
		return failf(linux.EACCES, "open %s: %w: it can only be %s", name, errAccess, can)
	}
	if n.acts && want&mayWrite == 0 {
		return n.may(want|mayWrite, "open", name, "(which acts on the guest, and so takes w)")
	}
	return n.may(want, "open", name)
}

// Open opens the file.
func (f *textFile) Open(mode p9.OpenFlags) (p9.QID, uint32, error) {
	if err := f.checkOpen(f.row.name, mode); err != nil {
		return p9.QID{}, 0, err
	}
	f.mu.Lock()
	f.opened, f.mode = true, mode
	f.mu.Unlock()
	return f.qid(), 0, nil
}

// Close forgets the fid.
func (f *textFile) Close() error {
	f.s.fids.putText(f)
	return nil
}

// ReadAt serves the content, or why the last write failed.
func (f *textFile) ReadAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.opened || f.mode.Mode() == p9.WriteOnly {
		return 0, linux.EBADF
	}
	a := &f.answer
	switch {
	case a.failed && a.at < 0 || off == 0 && a.failed:
		a.at = off
	case off == 0 || !a.have:
		if err := f.gone(); err != nil {
			return 0, err
		}
		text, err := f.row.read(a.text[:0], &f.node)
		if err != nil {
			return 0, fail(err)
		}
		a.text, a.have = text, true
	}
	if off -= a.at; off < 0 || off >= int64(len(a.text)) {
		return 0, io.EOF
	}
	return copy(p, a.text[off:]), nil
}

// Kept tells the 9P server what is kept of the content: of a short one nothing to speak
// of.
func (f *textFile) Kept() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if cap(f.answer.text) <= keptText {
		return 0
	}
	return cap(f.answer.text)
}

// Forget gives up what is kept.
func (f *textFile) Forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = answer{}
}

// writable is an error if the fid is not open for writing, or its VM is gone.
func (f *textFile) writable() error {
	f.mu.Lock()
	ok := f.opened && f.mode.Mode() != p9.ReadOnly
	f.mu.Unlock()
	if !ok {
		return linux.EBADF
	}
	return f.gone()
}

// WriteContext carries out what is written. The offset means nothing: a shell
// that appends counts it up from wherever the file ended for it.
func (f *textFile) WriteContext(ctx context.Context, p []byte, _ int64) (int, error) {
	if err := f.writable(); err != nil {
		return 0, err
	}
	err := fail(f.row.write(ctx, &f.node, string(p)))
	if f.row.answers {
		f.mu.Lock()
		f.answer = answer{text: f.answer.text[:0]}
		if err != nil {
			f.answer = answer{have: true, failed: true, at: -1, text: append(f.answer.text, printable.Line(err.Error())+"\n"...)}
		}
		f.mu.Unlock()
	}
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// WriteAt is WriteContext for servers that know no contexts.
func (f *textFile) WriteAt(p []byte, off int64) (int, error) {
	return f.WriteContext(context.Background(), p, off)
}

// diskFile is a fid on a file that is kept on the disk.
type diskFile struct{ textFile }

// Walk copies the fid.
func (f *diskFile) Walk(names []string) ([]p9.QID, p9.File, error) { return f.walkFile(names, f.row) }

// ReadContext reads the file. It is not the server's engine that waits for a disk. The
// descriptor is there for the read alone, and one of a few.
func (f *diskFile) ReadContext(ctx context.Context, p []byte, off int64) (int, error) {
	f.mu.Lock()
	ok := f.opened && f.mode.Mode() != p9.WriteOnly
	f.mu.Unlock()
	if !ok {
		return 0, linux.EBADF
	}
	if !f.s.user.all { // who runs the server does not wait for others
		select {
		case f.s.tree.reads <- struct{}{}:
		case <-ctx.Done():
			return 0, fail(ctx.Err())
		}
		defer func() { <-f.s.tree.reads }()
	}
	n, err := f.row.readAt(&f.node, p, off)
	if n > 0 || err == io.EOF {
		return n, err
	}
	return 0, fail(err)
}

// ReadAt is ReadContext for servers that know no contexts.
func (f *diskFile) ReadAt(p []byte, off int64) (int, error) {
	return f.ReadContext(context.Background(), p, off)
}

// Close forgets the fid.
func (f *diskFile) Close() error { return nil }

// begunFile is a fid on a file that its opening makes, or that is there while it is
// open.
type begunFile struct {
	textFile
	kind *row   // that began it; row is what its opening gave
	end  func() // what Close ends; nil until opened
}

// Walk copies the fid.
func (f *begunFile) Walk(names []string) ([]p9.QID, p9.File, error) { return f.walkFile(names, f.kind) }

// OpenCost tells the 9P server what is held while the file is open.
func (f *begunFile) OpenCost(p9.OpenFlags) (bytes, descriptors int) {
	return f.kind.holds.bytes, f.kind.holds.descriptors
}

// OpenContext makes what is read and written.
func (f *begunFile) OpenContext(ctx context.Context, mode p9.OpenFlags) (p9.QID, uint32, error) {
	if err := f.checkOpen(f.kind.name, mode); err != nil {
		return p9.QID{}, 0, err
	}
	r, end, err := f.kind.begin(ctx, &f.node)
	if err != nil {
		return p9.QID{}, 0, fail(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.row, f.end, f.opened, f.mode = &r, end, true, mode
	return f.qid(), 0, nil
}

// Open is OpenContext for servers that know no contexts.
func (f *begunFile) Open(mode p9.OpenFlags) (p9.QID, uint32, error) {
	return f.OpenContext(context.Background(), mode)
}

// Close ends what Open began.
func (f *begunFile) Close() error {
	if f.end != nil {
		f.end()
	}
	return nil
}
