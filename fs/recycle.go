package fs

import "sync"

// keptFids bounds what a session keeps of the fids that it had.
const keptFids = 64

// keptText is the longest text that a kept fid holds on to.
const keptText = 256

// fidStore keeps the fids of a session that were closed, for those that come:
// walking, reading and clunking a small file then allocates nothing. Each
// session has its own, so that a fid never becomes another user's.
type fidStore struct {
	mu    sync.Mutex // guards both lists, and the stored marks of what is in them
	texts []*textFile
	dirs  []*dir
}

// text returns a fid as new.
func (s *fidStore) text() *textFile {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.texts)
	if n == 0 {
		return new(textFile)
	}
	f := s.texts[n-1]
	s.texts[n-1], s.texts = nil, s.texts[:n-1]
	f.stored = false
	return f
}

// putText takes back a fid that was closed.
func (s *fidStore) putText(f *textFile) {
	f.mu.Lock()
	f.opened, f.mode, f.have, f.text = false, 0, false, f.text[:0]
	if cap(f.text) > keptText {
		f.text = nil
	}
	f.mu.Unlock()
	f.truncated.Store(false)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !f.stored && len(s.texts) < keptFids {
		f.stored = true
		s.texts = append(s.texts, f)
	}
}

// vmDir returns a fid on a VM's directory as new.
func (s *fidStore) vmDir() *dir {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.dirs)
	if n == 0 {
		return newVMDir()
	}
	d := s.dirs[n-1]
	s.dirs[n-1], s.dirs = nil, s.dirs[:n-1]
	d.stored = false
	return d
}

// putVMDir takes back a fid that was closed.
func (s *fidStore) putVMDir(d *dir) {
	d.mu.Lock()
	d.opened, d.shown = false, nil
	d.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !d.stored && len(s.dirs) < keptFids {
		d.stored = true
		d.parent = nil
		s.dirs = append(s.dirs, d)
	}
}

// kept returns d, or in place of a fid that comes back for another use one that
// does not, for a directory below it to hold on to.
func (d *dir) kept() *dir {
	if !d.ofVM {
		return d
	}
	k := newVMDir()
	k.node, k.parent, k.stored = d.node, d.parent, true
	return k
}
