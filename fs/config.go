package fs

import (
	"bytes"
	"context"
	"sync"
	"sync/atomic"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"

	"vmfs/machine/config"
)

// configFile is a fid on a file that is set as a whole. A client sends a long text
// in several writes, which end anywhere: what does not end in a whole line is kept
// until the write that ends one, a sync or the clunk, and is set together with
// that. So a write of whole lines has taken effect when it is answered, and of a
// text that is torn nothing takes effect before it is whole again.
//
// After a truncation the first text replaces what was there, and others add to it.
// Where one of them fails, what was there before comes back, and the fid sets
// nothing more: there is never half of what was to replace.
type configFile struct {
	textFile
	truncated atomic.Bool // the file was truncated after this fid opened it and before it wrote

	wr        sync.Mutex // guards what follows
	pending   []byte     // not set yet
	replacing bool       // the fid's texts, together, replace
	before    *string    // what the first of them replaced
	failed    error      // why a text that was to replace was not set
}

// Walk copies the fid.
func (f *configFile) Walk(names []string) ([]p9.QID, p9.File, error) { return f.walkFile(names, f.row) }

// OpenCost tells the 9P server what a writer can have kept: what is pending, and what
// was there before.
func (f *configFile) OpenCost(mode p9.OpenFlags) (bytes, descriptors int) {
	if mode.Mode() == p9.ReadOnly {
		return 0, 0
	}
	return 2 * config.MaxText, 0
}

// Open opens the file. A truncating open means something here alone.
func (f *configFile) Open(mode p9.OpenFlags) (p9.QID, uint32, error) {
	q, n, err := f.textFile.Open(mode)
	if err == nil && mode.Mode() != p9.ReadOnly {
		f.truncated.Store(mode&openTruncate != 0)
		f.s.truncs.add(f)
	}
	return q, n, err
}

// begin makes the fid one that replaces, if the file was truncated. wr is held.
func (f *configFile) begin() {
	if f.truncated.Swap(false) {
		f.pending, f.replacing, f.before, f.failed = nil, true, nil, nil
	}
}

// WriteContext sets p, with what is pending, if it ends in a whole line.
func (f *configFile) WriteContext(ctx context.Context, p []byte, _ int64) (int, error) {
	if err := f.writable(); err != nil {
		return 0, err
	}
	f.wr.Lock()
	defer f.wr.Unlock()
	f.begin()
	if f.failed != nil {
		return 0, fail(f.failed)
	}
	if n := len(f.pending) + len(p); n > config.MaxText {
		f.pending = nil
		err := failf(linux.EINVAL, "%s of %s: %d bytes without a line that is whole: a configuration can have %d", f.row.name, f.vm.Name(), n, config.MaxText)
		f.vm.RecordError(f.row.name, err)
		return 0, f.refuse(ctx, err)
	}
	f.pending = append(f.pending, p...)
	if bytes.HasSuffix(p, []byte("\n")) {
		if err := f.commit(ctx); err != nil {
			return 0, fail(err)
		}
	}
	return len(p), nil
}

// commit sets what is pending. wr is held.
func (f *configFile) commit(ctx context.Context) error {
	text := string(f.pending)
	if f.pending = nil; text == "" {
		return f.failed
	}
	replace, before := f.replacing && f.before == nil, ""
	if replace {
		before = f.vm.Config().String()
	}
	if err := f.row.set(ctx, &f.node, text, replace); err != nil {
		return f.refuse(ctx, err)
	}
	if replace {
		f.before = &before
	}
	return nil
}

// refuse is for a text that was not set for err, which it returns. wr is held.
func (f *configFile) refuse(ctx context.Context, err error) error {
	if !f.replacing {
		return err
	}
	f.failed = err
	if f.before == nil {
		return err
	}
	// Also where ctx has ended; machine bounds the time.
	if uerr := f.row.set(context.WithoutCancel(ctx), &f.node, *f.before, true); uerr != nil {
		f.s.tree.opt.Log.Error("a write failed, and the configuration before it could not be restored", "vm", f.vm.Name(), "err", uerr)
	}
	f.vm.RecordError(f.row.name, err)
	return err
}

// FSyncContext sets what is pending, as if the file were closed.
func (f *configFile) FSyncContext(ctx context.Context) error {
	f.wr.Lock()
	defer f.wr.Unlock()
	f.begin()
	return fail(f.commit(ctx))
}

// CloseContext sets what is pending and forgets the fid.
func (f *configFile) CloseContext(ctx context.Context) error {
	f.s.truncs.remove(f)
	if f.gone() != nil {
		return nil
	}
	return f.FSyncContext(ctx)
}

// AbandonContext forgets the fid of a client that left. What it has not finished is
// dropped.
func (f *configFile) AbandonContext(context.Context) error {
	f.s.truncs.remove(f)
	if f.gone() != nil {
		return nil
	}
	f.wr.Lock()
	defer f.wr.Unlock()
	if len(f.pending) > 0 {
		return failf(linux.EINTR, "%s of %s: the client left in the middle of a line: what it wrote last is dropped", f.row.name, f.vm.Name())
	}
	return nil
}

// Close is CloseContext for servers that know no contexts.
func (f *configFile) Close() error { return f.CloseContext(context.Background()) }

// truncSet tells fids that their file was truncated. A truncating shell
// redirection reaches the server as the open of one fid and the truncation of
// the file through that or another one, before the first write.
type truncSet struct {
	mu   sync.Mutex // guards fids
	fids map[*configFile]struct{}
}

func (s *truncSet) add(f *configFile) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fids == nil {
		s.fids = make(map[*configFile]struct{})
	}
	s.fids[f] = struct{}{}
}

func (s *truncSet) remove(f *configFile) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.fids, f)
}

func (s *truncSet) truncate(path uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for f := range s.fids {
		if f.path == path {
			f.truncated.Store(true)
		}
	}
}
