package ninep

import (
	"context"
	"errors"
	"io"
	"math"
	"time"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"
)

// readHeader is what comes before the data in an Rread.
const readHeader = headerSize + 4

// openFor gives a fid that is open, and not for the other direction alone.
func (s *session) openFor(num uint32, other p9.OpenFlags, wrong error) (*fid, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, err := s.anyFid(num)
	switch {
	case err != nil:
		return nil, err
	case f.xattr != nil:
		return f, nil
	case f.state == fidOpening, f.state == fidCreating:
		return nil, errOpening
	case f.state != fidOpen:
		return nil, errNotOpen
	case f.flags.Mode() == other:
		return nil, wrong
	}
	return f, nil
}

// runRead reads into the reply.
func runRead(r *request) error {
	s := r.s
	f, err := s.openFor(r.fid, p9.WriteOnly, errNotReadable)
	if err != nil {
		return err
	}
	count := min(r.count, s.msize-readHeader)
	switch {
	case f.xattr != nil:
	case f.node.isDir():
		if s.is(dialectL) {
			return errIsDir
		}
	case r.offset > math.MaxInt64:
		return errOffset
	case f.reader != nil:
		return s.readLater(f, r, count)
	}
	// Most files are short, and most clients ask for a whole message of them.
	if !f.fills {
		count = min(count, maxBlocked)
	}
	b := s.c.room(readHeader + int(count))
	start := len(b.b)
	data := b.b[start+readHeader : start+readHeader+int(count)]
	var n int
	switch {
	case f.xattr != nil:
		n, err = f.xattr.read(data, r.offset)
	case f.node.isDir():
		n, err = s.readDir(f, data, r.offset)
	default:
		n, err = s.readPlain(f.node.file, data, int64(r.offset))
	}
	if err != nil {
		return err
	}
	if n >= maxBlocked {
		f.fills = !f.node.isDir()
	}
	if s.isLinux() && f.end.read(r.offset, n, time.Now) {
		return errEndLoop
	}
	e := enc{b.b}
	e.begin(msgRread, r.tag)
	e.u32(uint32(n))
	e.b = e.b[:start+readHeader+n]
	e.end(start)
	b.b = e.b
	return errReplied
}

func (s *session) readPlain(file p9.File, p []byte, off int64) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	s.srv.tree.RLock()
	defer s.srv.tree.RUnlock()
	n, err := file.ReadAt(p, off)
	return checkRead(p, n, err)
}

// checkRead makes of io.ReaderAt's results those of a Tread.
func checkRead(p []byte, n int, err error) (int, error) {
	switch {
	case n < 0 || n > len(p):
		return 0, fault(linux.EIO, "i/o error: bad count of a read")
	case n > 0 || errors.Is(err, io.EOF):
		return n, nil
	}
	return n, err
}

// maxBlocked is the most that a read that can block gets at a time: its buffer,
// which is there for as long as it waits, is one of 64 KiB with the header.
const maxBlocked = 64<<10 - readHeader

func (s *session) readLater(f *fid, r *request, count uint32) error {
	s.mu.Lock()
	over := !f.reads.busy && s.fillsReads() && f.early.ends(r.offset, r.count)
	s.mu.Unlock()
	if over || count == 0 {
		return s.c.replyData(r, nil)
	}
	r.f = f
	r.length = uint64(min(count, maxBlocked, uint32(s.share()-readHeader)))
	return s.later(r, &f.reads, execRead)
}

// replyData answers a Tread.
func (c *conn) replyData(r *request, data []byte) error {
	b := c.room(readHeader + len(data))
	e := enc{b.b}
	start := e.begin(msgRread, r.tag)
	e.u32(uint32(len(data)))
	e.b = append(e.b, data...)
	e.end(start)
	b.b = e.b
	return errReplied
}

func execRead(ctx context.Context, r *request) error {
	s, f := r.s, r.f
	count := int(r.length)
	r.buf = getBuf(readHeader + count)
	if s.fillsReads() {
		// Requests that waited in the lane are judged when their turn comes.
		s.mu.Lock()
		over := f.early.ends(r.offset, r.count)
		s.mu.Unlock()
		if over {
			r.written = 0
			return nil
		}
	}
	p := r.buf.b[readHeader : readHeader+count]
	n, err := f.reader.ReadContext(ctx, p, int64(r.offset))
	if n, err = checkRead(p, n, err); err != nil {
		return err
	}
	if s.isLinux() && f.end.read(r.offset, n, time.Now) {
		return errEndLoop
	}
	r.written = uint32(n)
	if s.fillsReads() {
		s.mu.Lock()
		f.early.done(r.offset, r.count, r.written, s.msize)
		s.mu.Unlock()
	}
	return nil
}

// runWrite writes what came with the request.
func runWrite(r *request) error {
	s := r.s
	f, err := s.openFor(r.fid, p9.ReadOnly, errNotWritable)
	switch {
	case err != nil:
		return err
	case f.xattr != nil:
		r.written, err = f.xattr.write(r.data, r.offset)
		return err
	case r.offset > math.MaxInt64:
		return errOffset
	case f.writer != nil:
		r.f = f
		if w, ok := f.writer.(PartWriterContext); ok && w.WritesInParts() {
			r.data = r.data[:min(len(r.data), s.share())]
		}
		return s.later(r, &f.writes, execWrite)
	}
	n, err := s.writePlain(f.node.file, r.data, int64(r.offset))
	if err != nil && (n <= 0 || n >= len(r.data)) {
		return err
	}
	r.written = uint32(n) // the client sees why when it writes the rest
	return nil
}

func (s *session) writePlain(file p9.File, p []byte, off int64) (int, error) {
	s.srv.tree.RLock()
	defer s.srv.tree.RUnlock()
	n, err := file.WriteAt(p, off)
	return checkWrite(p, n, err)
}

func checkWrite(p []byte, n int, err error) (int, error) {
	if n < 0 || n > len(p) {
		return 0, fault(linux.EIO, "i/o error: bad count of a write")
	}
	return n, err
}

func execWrite(ctx context.Context, r *request) error {
	n, err := r.f.writer.WriteContext(ctx, r.data, int64(r.offset))
	if n, err = checkWrite(r.data, n, err); err != nil {
		return err
	}
	r.written = uint32(n)
	return nil
}

// runFsync syncs an open file.
func runFsync(r *request) error {
	s := r.s
	f, err := s.openFor(r.fid, p9.OpenFlagsModeMask, nil)
	if err != nil {
		return err
	}
	if f.xattr != nil {
		return errXattrFid
	}
	if _, ok := f.node.file.(SyncerContext); ok {
		r.f = f
		return s.later(r, nil, execFsync)
	}
	return s.fsyncPlain(f.node.file)
}

// fsyncPlain syncs. It is the one plain call that takes long by its nature, so
// what was answered before does not wait for it.
func (s *session) fsyncPlain(file p9.File) error {
	s.c.hand()
	s.srv.tree.RLock()
	defer s.srv.tree.RUnlock()
	return file.FSync()
}

func execFsync(ctx context.Context, r *request) error {
	return r.f.node.file.(SyncerContext).FSyncContext(ctx)
}

// runLock sets or clears a lock.
func runLock(r *request) error {
	s := r.s
	f, err := s.openFor(r.fid, p9.OpenFlagsModeMask, nil)
	if err != nil {
		return err
	}
	if f.xattr != nil {
		return errXattrFid
	}
	if _, ok := f.node.file.(LockerContext); ok {
		r.f = f
		return s.later(r, nil, execLock)
	}
	st, err := f.node.file.Lock(int(int32(r.count)), p9.LockType(r.mode), p9.LockFlags(r.flags), r.offset, r.length, r.name)
	r.status = uint8(st)
	return err
}

func execLock(ctx context.Context, r *request) error {
	st, err := r.f.node.file.(LockerContext).LockContext(ctx, int(int32(r.count)), p9.LockType(r.mode), p9.LockFlags(r.flags), r.offset, r.length, r.name)
	r.status = uint8(st)
	return err
}

// runGetLock asks for the lock that is in the way of another.
func runGetLock(r *request) error {
	s := r.s
	f, err := s.openFor(r.fid, p9.OpenFlagsModeMask, nil)
	if err != nil {
		return err
	}
	g, ok := f.node.file.(LockGetter)
	if !ok || f.xattr != nil {
		return errNoGetLock
	}
	typ, start, length, pid, client, err := g.GetLock(int(int32(r.count)), p9.LockType(r.mode), r.offset, r.length, r.name)
	if err != nil {
		return err
	}
	r.mode, r.offset, r.length, r.count, r.name = uint32(typ), start, length, uint32(int32(pid)), client
	return nil
}
