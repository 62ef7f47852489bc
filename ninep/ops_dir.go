package ninep

import (
	"errors"
	"io"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"

	"vmfs/ninep/wire"
)

// dirReader is where reading a directory is. What the file gave and did not
// fit a reply is kept for the next one: some files give more than asked for,
// and cannot give it twice.
type dirReader struct {
	rest  []p9.Dirent
	held  int    // bytes that count for rest, see session.hold
	at    uint64 // the offset that rest begins at
	bytes uint64 // the same as a count of bytes, for 9P2000
}

// entries gives what follows an entry's offset: at least one, or none at the
// end. The caller takes them off with used. From the start it gives what there is
// now, but for a file that cannot give it twice.
func (s *session) entries(f *fid, off uint64, count uint32) ([]p9.Dirent, error) {
	d := &f.dir
	kept := off == d.at && len(d.rest) > 0
	if kept && off != 0 {
		return d.rest, nil
	}
	s.srv.tree.RLock()
	defer s.srv.tree.RUnlock()
	if err := f.node.canChange(); err != nil {
		return nil, err
	}
	rest, err := f.node.file.Readdir(off, count)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if kept && len(rest) == 0 {
		return d.rest, nil
	}
	if err := s.holdFor(&d.held, len(rest)*direntCost); err != nil {
		return nil, err
	}
	d.rest, d.at = rest, off
	return rest, nil
}

func (d *dirReader) used(n int) {
	if n > 0 {
		d.at = d.rest[n-1].Offset
		d.rest = d.rest[n:]
	}
	if len(d.rest) == 0 {
		d.rest = nil
	}
}

// direntCost is what an entry that is kept takes, with a short name.
const direntCost = 64

// doneDir is called after each request that used entries: there is nothing to
// hold once they are used up.
func (s *session) doneDir(d *dirReader) {
	if len(d.rest) == 0 {
		_ = s.holdFor(&d.held, 0)
	}
}

// leastDirent is what an entry takes at least.
var leastDirent = wire.DirentSize(&p9.Dirent{Name: "."})

// runReaddir reads a directory into the reply.
func runReaddir(r *request) error {
	s := r.s
	f, err := s.openFor(r.Fid, p9.WriteOnly, errNotReadable)
	if err != nil {
		return err
	}
	if f.xattr != nil {
		return errXattrFid
	}
	if !f.node.isDir() {
		return linux.ENOTDIR
	}
	count := int(min(r.Count, s.msize-wire.DataHeader))
	if count < leastDirent && !s.google { // which must not look like the end
		return errSmallCount
	}
	ents, err := s.entries(f, r.Offset, uint32(count))
	if err != nil {
		return err
	}
	n, size := 0, 0
	for i := range ents {
		next := size + wire.DirentSize(&ents[i])
		if next > count {
			break
		}
		n, size = i+1, next
	}
	if n == 0 && len(ents) > 0 && !s.google {
		return errSmallCount
	}
	b := s.c.room(wire.DataHeader + size)
	start := len(b.b)
	b.b = b.b[:start+wire.DataHeader]
	for _, ent := range ents[:n] {
		ent.Type = s.direntType(&ent)
		ent.QID = s.sent(ent.QID)
		b.b = s.c.codec.AppendDirent(b.b, &ent)
	}
	wire.PutDataHeader(b.b[start:], wire.Rreaddir, r.Tag)
	f.dir.used(n)
	s.doneDir(&f.dir)
	return errReplied
}

// direntType is the type of readdir(3), as far as a QID tells; p9's client
// wants the QID's.
func (s *session) direntType(ent *p9.Dirent) p9.QIDType {
	const dtUnknown, dtDir, dtReg, dtLnk = 0, 4, 8, 10
	switch {
	case s.google:
		return ent.Type
	case ent.QID.Type&p9.TypeDir != 0:
		return dtDir
	case ent.QID.Type&p9.TypeSymlink != 0:
		return dtLnk
	case ent.QID.Type == p9.TypeRegular:
		return dtReg
	}
	return dtUnknown
}

// readDir fills p with stat records, as read(5) has directories read: from the
// beginning, or from where the last read ended.
func (s *session) readDir(f *fid, p []byte, off uint64) (int, error) {
	d := &f.dir
	switch off {
	case d.bytes:
	case 0:
		d.rest, d.at, d.bytes = nil, 0, 0
	default:
		return 0, errDirOffset
	}
	if len(p) == 0 {
		return 0, nil
	}
	defer s.doneDir(d)
	b := p[:0:len(p)]
	for {
		before := d.at
		ents, err := s.entries(f, before, uint32(len(p)))
		if err != nil || len(ents) == 0 {
			if len(b) > 0 {
				err = nil // it comes again with the next read
			}
			d.bytes += uint64(len(b))
			return len(b), err
		}
		for i := range ents {
			was := len(b)
			if b, err = s.appendEntry(b, f.node, ents[i].Name); err != nil && was == 0 {
				return 0, err
			}
			if err != nil || len(b) > len(p) { // the error comes again with the next read
				if was == 0 {
					return 0, errSmallCount
				}
				d.bytes += uint64(was)
				return was, nil
			}
			d.used(1)
		}
		if d.at == before {
			return 0, fault(linux.EIO, "directory entries have no offsets: i/o error")
		}
	}
}

// appendEntry writes the record of a file in a directory; nothing if it is gone
// by now.
func (s *session) appendEntry(b []byte, dir *node, name string) ([]byte, error) {
	if name == "." || name == ".." {
		return b, nil
	}
	s.srv.tree.RLock()
	defer s.srv.tree.RUnlock()
	n, err := s.step(dir, name, new([1]string))
	if err == nil {
		if err = s.statOf(n, &s.c.stat); err == nil {
			b = s.c.codec.AppendStat(b, &s.c.stat)
		}
		_ = s.release(atOnce, n)
	}
	if err != nil && errnoOf(err) == linux.ENOENT {
		return b, nil
	}
	return b, err
}
