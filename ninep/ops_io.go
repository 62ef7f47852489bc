package ninep

import (
	"context"
	"errors"
	"io"
	"math"
	"time"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"

	"vmfs/ninep/wire"
)

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
	f, err := s.openFor(r.Fid, p9.WriteOnly, errNotReadable)
	if err != nil {
		return err
	}
	count := min(r.Count, s.msize-wire.DataHeader)
	switch {
	case f.xattr != nil:
	case f.node.isDir():
		if s.is(wire.Linux) {
			return linux.EISDIR
		}
	case r.Offset > math.MaxInt64-uint64(count): // nothing is there, and no file counts so far
		return nil
	case f.reader != nil:
		return s.readLater(f, r, count)
	}
	// Most files are short, and most clients ask for a whole message of them.
	if !f.fills || s.c.share.over() {
		count = min(count, maxBlocked)
	}
	b := s.c.room(wire.DataHeader + int(count))
	start := len(b.b)
	data := b.b[start+wire.DataHeader : start+wire.DataHeader+int(count)]
	var n int
	switch {
	case f.xattr != nil:
		n, err = f.xattr.read(data, r.Offset)
	case f.node.isDir():
		n, err = s.readDir(f, data, r.Offset)
	default:
		n, err = s.readPlain(f.node.file, data, int64(r.Offset))
	}
	if err == nil {
		err = s.holdKept(f)
	}
	if err != nil {
		return err
	}
	if n >= maxBlocked {
		f.fills = !f.node.isDir()
	}
	if s.isLinux() && f.end.read(r.Offset, n, time.Now) {
		return errEndLoop
	}
	b.b = b.b[:start+wire.DataHeader+n]
	wire.PutDataHeader(b.b[start:], wire.Rread, r.Tag)
	return errReplied
}

// holdKept counts what a read left in the file.
func (s *session) holdKept(f *fid) error {
	k, ok := f.node.file.(Keeper)
	if !ok || f.xattr != nil {
		return nil
	}
	err := s.holdFor(&f.kept, k.Kept())
	if err != nil {
		k.Forget()
	}
	return err
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
		return 0, fault(linux.EIO, "more was read than there is room for: i/o error")
	case n > 0 || errors.Is(err, io.EOF):
		return n, nil
	}
	return n, err
}

// maxBlocked is the most that a read that can block gets at a time: its buffer,
// which is there for as long as it waits, is one of 64 KiB with the header.
const maxBlocked = 64<<10 - wire.DataHeader

func (s *session) readLater(f *fid, r *request, count uint32) error {
	s.mu.Lock()
	over := !f.reads.busy && s.fillsReads() && f.early.ends(r.Offset, r.Count)
	s.mu.Unlock()
	if over || count == 0 {
		return nil
	}
	r.f = f
	r.Length = uint64(min(count, maxBlocked, uint32(s.share()-wire.DataHeader)))
	return s.later(r, &f.reads, execRead)
}

func execRead(ctx context.Context, r *request) error {
	s, f := r.s, r.f
	count := int(r.Length)
	r.buf = getBuf(wire.DataHeader + count)
	if s.fillsReads() {
		// Requests that waited in the lane are judged when their turn comes.
		s.mu.Lock()
		over := f.early.ends(r.Offset, r.Count)
		s.mu.Unlock()
		if over {
			return nil
		}
	}
	p := r.buf.b[wire.DataHeader : wire.DataHeader+count]
	n, err := f.reader.ReadContext(ctx, p, int64(r.Offset))
	if n, err = checkRead(p, n, err); err != nil {
		return err
	}
	if s.isLinux() && f.end.read(r.Offset, n, time.Now) {
		return errEndLoop
	}
	r.got = n
	if s.fillsReads() {
		s.mu.Lock()
		f.early.done(r.Offset, r.Count, uint32(n), s.msize)
		s.mu.Unlock()
	}
	return nil
}

// runWrite writes what came with the request.
func runWrite(r *request) error {
	s := r.s
	f, err := s.openFor(r.Fid, p9.ReadOnly, errNotWritable)
	switch {
	case err != nil:
		return err
	case f.xattr != nil:
		r.Count, err = f.xattr.write(r.Data, r.Offset)
		return err
	case r.Offset > math.MaxInt64-uint64(len(r.Data)):
		return errOffset
	case f.writer != nil:
		r.f = f
		if w, ok := f.writer.(PartWriterContext); ok && w.WritesInParts() {
			r.Data = r.Data[:min(len(r.Data), s.share())]
		}
		return s.later(r, &f.writes, execWrite)
	}
	n, err := s.writePlain(f.node.file, r.Data, int64(r.Offset))
	if err != nil && (n <= 0 || n >= len(r.Data)) {
		return err
	}
	r.Count = uint32(n) // the client sees why when it writes the rest
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
		return 0, fault(linux.EIO, "more was written than there is: i/o error")
	}
	return n, err
}

func execWrite(ctx context.Context, r *request) error {
	n, err := r.f.writer.WriteContext(ctx, r.Data, int64(r.Offset))
	if n, err = checkWrite(r.Data, n, err); err != nil {
		return err
	}
	r.Count = uint32(n)
	return nil
}

// execFsync syncs an open file. The plain method is the one that takes long by its
// nature, so what was answered before does not wait for it.
func execFsync(ctx context.Context, r *request) error {
	if f, ok := r.f.node.file.(SyncerContext); ok {
		return f.FSyncContext(ctx)
	}
	r.s.c.endTurn()
	r.s.c.hand()
	r.s.srv.tree.RLock()
	defer r.s.srv.tree.RUnlock()
	return r.f.node.file.FSync()
}

// execLock sets or clears a lock.
func execLock(ctx context.Context, r *request) (err error) {
	var status p9.LockStatus
	pid, typ, flags := int(int32(r.Count)), p9.LockType(r.Mode), p9.LockFlags(r.Flags)
	if f, ok := r.f.node.file.(LockerContext); ok {
		status, err = f.LockContext(ctx, pid, typ, flags, r.Offset, r.Length, r.Name)
	} else {
		status, err = r.f.node.file.Lock(pid, typ, flags, r.Offset, r.Length, r.Name)
	}
	r.Mode = uint32(status)
	return err
}

// runGetLock asks for the lock that is in the way of another.
func runGetLock(r *request) error {
	g, ok := r.f.node.file.(LockGetter)
	if !ok {
		return errNoGetLock
	}
	typ, start, length, pid, client, err := g.GetLock(int(int32(r.Count)), p9.LockType(r.Mode), r.Offset, r.Length, r.Name)
	r.Mode, r.Offset, r.Length, r.Count, r.Name = uint32(typ), start, length, uint32(int32(pid)), client
	return err
}
