package ninep

import (
	"sync"
	"time"

	"github.com/hugelgupf/p9/p9"

	"vmfs/ninep/wire"
)

// fid is what a client knows a file by.
//
// The session's reading goroutine is the only one to look fids up, so what is
// not marked otherwise needs no lock: it is changed by that goroutine, or by
// the one request that the fid waits for.
type fid struct {
	num  uint32
	node *node

	flags  p9.OpenFlags
	reader ReaderContext // the open file, if its reads can block
	writer WriterContext // the same for writes
	xattr  *xattr        // not nil if the fid is of an extended attribute
	dir    dirReader     // where reading the directory is
	rclose bool          // remove the file when the fid is clunked
	fills  bool          // a read got as much as a first read may: the next ones may get more
	kept   int           // bytes that count for what the file keeps, see Keeper
	cost   openCost      // what the open file takes
	end    endLoop       // for the reads, which come one at a time

	// Guarded by session.mu.
	state   fidState
	busy    int      // requests under way in goroutines of their own
	closing *request // the Tclunk or Tremove that waits for busy to be 0
	reads   lane
	writes  lane
	early   earlyEnd
}

type fidState uint8

const (
	fidAttaching fidState = iota // a Tattach is under way: nothing else may use it
	fidClosed                    // not open
	fidOpening                   // a Topen is under way
	fidCreating                  // a Tcreate is, which makes it another file's: nothing but a Tclunk may use it
	fidOpen
)

var fidPool = sync.Pool{New: func() any { return new(fid) }}

// newFid makes a fid that is not in the table yet.
func newFid(num uint32, n *node) *fid {
	f := fidPool.Get().(*fid)
	f.num, f.node, f.state = num, n, fidClosed
	return f
}

// recycle takes back a fid that nothing refers to any more.
func (f *fid) recycle() {
	*f = fid{}
	fidPool.Put(f)
}

// fidTable finds fids by number. Clients number from 0 or 1, so the low ones
// are in an array.
type fidTable struct {
	low   []*fid
	high  map[uint32]*fid
	n     int
	share *userShare // whose fids they are besides
}

const lowFids = 1024

func (t *fidTable) get(num uint32) *fid {
	if num < uint32(len(t.low)) {
		return t.low[num]
	}
	return t.high[num]
}

func (t *fidTable) put(f *fid) {
	t.n++
	t.share.fids.Add(1)
	switch {
	case f.num < uint32(len(t.low)):
		t.low[f.num] = f
	case f.num < lowFids:
		low := make([]*fid, min(max(2*int(f.num), 16), lowFids))
		copy(low, t.low)
		t.low = low
		t.low[f.num] = f
	default:
		if t.high == nil {
			t.high = make(map[uint32]*fid)
		}
		t.high[f.num] = f
	}
}

func (t *fidTable) del(num uint32) {
	t.n--
	t.share.fids.Add(-1)
	if num < uint32(len(t.low)) {
		t.low[num] = nil
		return
	}
	delete(t.high, num)
}

// empty forgets all fids, and gives them.
func (t *fidTable) empty() []*fid {
	all := make([]*fid, 0, t.n)
	t.each(func(f *fid) { all = append(all, f) })
	t.share.fids.Add(int64(-t.n))
	*t = fidTable{share: t.share}
	return all
}

func (t *fidTable) each(fn func(*fid)) {
	for _, f := range t.low {
		if f != nil {
			fn(f)
		}
	}
	for _, f := range t.high {
		fn(f)
	}
}

// fid finds a fid that is ready for use.
func (s *session) fid(num uint32) (*fid, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, err := s.anyFid(num)
	if err == nil && f.state == fidCreating {
		return nil, errOpening
	}
	return f, err
}

// anyFid finds a fid, which may be in use by a Tcreate. s.mu is held.
func (s *session) anyFid(num uint32) (*fid, error) {
	f := s.fids.get(num)
	if f == nil || f.state == fidAttaching {
		return nil, errUnknownFid
	}
	return f, nil
}

// checkNew says why a fid may not come into being.
func (s *session) checkNew(num uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if num == wire.NoFid {
		return errUnknownFid
	}
	if s.fids.get(num) != nil {
		return errDupFid
	}
	if s.fids.n >= s.srv.limits.Fids || s.c.share.fids.Load() >= int64(s.srv.limits.UserFids) {
		return errFids
	}
	return nil
}

func (s *session) insert(f *fid) {
	s.mu.Lock()
	s.fids.put(f)
	s.mu.Unlock()
}

// endLoop tells a client that has been caught in a loop at the end of a file. Linux
// 6.12 is where the file seems longer to it than it is, because somebody else has
// it open and has written more to it than there is to read: it asks for the rest at
// full speed, and the reader cannot even be killed. An error frees it.
type endLoop struct {
	off   uint64
	n     int       // replies of 0 bytes at off
	since time.Time // the first of them
}

// More than loopReads replies of 0 bytes at one offset, with less than loopPause
// between them, are no reader's that waits for the file to grow.
const (
	loopReads = 1000
	loopPause = 5 * time.Millisecond
)

// read is told of a reply of n bytes, and reports whether it is one of a loop.
func (l *endLoop) read(off uint64, n int, now func() time.Time) bool {
	switch {
	case n > 0:
		l.n = 0
		return false
	case l.n == 0 || off != l.off:
		*l = endLoop{off: off, n: 1, since: now()}
		return false
	}
	if l.n++; l.n < loopReads {
		return false
	}
	l.n = 0
	return now().Sub(l.since) < loopReads*loopPause
}

// earlyEnd tells the read(2) that goes on from the one that is new, for
// clients that fill the whole buffer of a read(2) before they give it to the
// reader: Linux. After a short reply, the next Tread belongs to the same
// read(2) if it asks for just the rest, and then 0 bytes end it.
type earlyEnd struct {
	armed    bool
	off      uint64 // of the Tread that got the short reply
	count    uint32 // what it asked for
	n        uint32 // what it got
	wasWhole bool   // it asked for as much as a message holds
}

// done remembers a reply.
func (e *earlyEnd) done(off uint64, count, n uint32, msize uint32) {
	*e = earlyEnd{armed: n > 0 && n < count, off: off, count: count, n: n, wasWhole: count+ioHeader >= msize}
}

// ends reports whether a Tread continues the read(2) that got a short reply,
// and forgets about it: the read(2) after is a new one.
func (e *earlyEnd) ends(off uint64, count uint32) bool {
	was := *e
	e.armed = false
	if !was.armed || off != was.off+uint64(was.n) {
		return false
	}
	rest := was.count - was.n
	// A read(2) of somewhat more than a message holds asks for less than the
	// whole message only once the rest is small enough, and that rest is then
	// more than the first message lacked.
	return count == rest || was.wasWhole && count > rest && count < was.count
}
