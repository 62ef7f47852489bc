package serial

import (
	"log/slog"
	"os"

	"vmfs/internal/durable"
)

// A Log is a file that is appended to within a bound. It never fails: what cannot be
// written is lost, since neither the VMM nor its guest can be made to wait for a disk
// that is full. One goroutine at a time uses it.
type Log struct {
	f    *os.File // nil is none
	log  *slog.Logger
	most int64
	cut  func(f *os.File, head, most int64) (int64, error)

	head    int64 // where what is left after the last cut begins
	since   int64 // bytes since its size was looked at
	failing bool  // the last write has failed, of which the log has been told
}

// OpenSerialLog opens the file that a serial port's output is appended to, "" being none: see
// Config.SerialLog for what becomes of it beyond most bytes.
func OpenSerialLog(path string, most int64, log *slog.Logger) (*Log, error) {
	return newLog(path, most, cutHead, log)
}

// newLog opens a file for a process, "" being none, which cut makes smaller where it
// has more than most bytes.
func newLog(path string, most int64, cut func(f *os.File, head, most int64) (int64, error), log *slog.Logger) (*Log, error) {
	if path == "" {
		return &Log{}, nil
	}
	f, err := openLog(path)
	if err != nil {
		return nil, err
	}
	w := &Log{f: f, log: log, most: most, cut: cut}
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		w.most = 0 // a device or a FIFO has no size
	}
	w.since = most // what was there counts
	return w, nil
}

// Append appends p.
func (w *Log) Append(p []byte) {
	if w.f == nil || len(p) == 0 {
		return
	}
	_, err := w.f.Write(p)
	if err != nil && !w.failing {
		w.log.Error("what was said is lost: it cannot be written", "err", err)
	}
	w.failing = err != nil
	if w.since += int64(len(p)); w.most > 0 && w.since > w.most/8 {
		w.since = 0
		var err error
		if w.head, err = w.cut(w.f, w.head, w.most); err != nil {
			w.log.Error("a log cannot be cut and grows on", "file", w.f.Name(), "err", err)
			w.most = 0
		}
	}
}

// Close closes the file.
func (w *Log) Close() {
	if w.f != nil {
		_ = w.f.Close() // every write has been looked at
	}
}

// cutHead bounds a file that others read while it grows: no byte of it moves.
func cutHead(f *os.File, head, most int64) (int64, error) {
	return durable.CutHead(f, head, most, most/2)
}

// keepTail bounds a file in which people look: it has no hole.
func keepTail(f *os.File, _, most int64) (int64, error) {
	_, err := durable.KeepTail(f.Name(), most, most/4)
	return 0, err
}
