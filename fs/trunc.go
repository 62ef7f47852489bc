package fs

import "sync"

// truncSet tells fids that their file was truncated. A truncating shell
// redirection reaches the server as the open of one fid and the truncation of
// the file through that or another one, before the first write.
type truncSet struct {
	mu   sync.Mutex // guards fids
	fids map[*textFile]uint64
}

func (s *truncSet) add(f *textFile) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fids == nil {
		s.fids = make(map[*textFile]uint64)
	}
	s.fids[f] = f.path
}

func (s *truncSet) remove(f *textFile) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.fids, f)
}

func (s *truncSet) truncate(path uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for f, p := range s.fids {
		if p == path {
			f.truncated.Store(true)
		}
	}
}
