package fs

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"sync"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"
)

// logFile is a fid on the log: what is on the disk of it, read as it is there.
type logFile struct {
	node

	mu     sync.Mutex // guards what follows
	opened bool
	f      *os.File // nil if there is none yet
}

// Walk copies the fid.
func (f *logFile) Walk(names []string) ([]p9.QID, p9.File, error) {
	if len(names) > 0 {
		return nil, nil, linux.ENOTDIR
	}
	return []p9.QID{f.qid()}, &logFile{node: f.node}, nil
}

// Open opens the log; a VM that never ran has an empty one.
func (f *logFile) Open(mode p9.OpenFlags) (p9.QID, uint32, error) {
	if err := f.checkOpen("log", mode); err != nil {
		return p9.QID{}, 0, err
	}
	h, err := os.Open(f.vm.LogPath())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return p9.QID{}, 0, fail(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.f, f.opened = h, true
	return f.qid(), 0, nil
}

// ReadAt reads the log.
func (f *logFile) ReadAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.opened {
		return 0, linux.EBADF
	}
	if f.f == nil {
		return 0, io.EOF
	}
	return f.f.ReadAt(p, off)
}

// Close closes the log.
func (f *logFile) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.f == nil {
		return nil
	}
	err := f.f.Close()
	f.f = nil
	return err
}
