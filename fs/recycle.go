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
	f := last(&s.texts)
	f.stored = false
	return f
}

// dir returns a fid as new.
func (s *fidStore) dir() *dir {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := last(&s.dirs)
	d.stored = false
	return d
}

// last takes the last of a list, or makes one.
func last[T any](list *[]*T) *T {
	n := len(*list)
	if n == 0 {
		return new(T)
	}
	t := (*list)[n-1]
	(*list)[n-1], *list = nil, (*list)[:n-1]
	return t
}

// putText takes back a fid that was closed.
func (s *fidStore) putText(f *textFile) {
	f.mu.Lock()
	f.opened, f.mode, f.answer = false, 0, answer{text: f.answer.text[:0]}
	if cap(f.answer.text) > keptText {
		f.answer.text = nil
	}
	f.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !f.stored && len(s.texts) < keptFids {
		f.stored = true
		s.texts = append(s.texts, f)
	}
}

// putDir takes back a fid that was closed.
func (s *fidStore) putDir(d *dir) {
	d.mu.Lock()
	d.opened, d.shown = false, nil
	d.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !d.stored && len(s.dirs) < keptFids {
		d.stored = true
		s.dirs = append(s.dirs, d)
	}
}
