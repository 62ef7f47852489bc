package machine

import (
	"bytes"
	"io"
	"os"
	"strconv"
	"strings"
)

// The events file of a VM holds its records as lines. It is appended to; when it
// has grown past maxHistory its older half goes.
const maxHistory = 256 << 10

// A history is the events file of one VM. Its methods are called one at a time.
type history struct {
	path string
	// torn tells that the file may end within a line, after a crash or a full
	// disk, which the next line must not continue.
	torn bool
}

// last returns the number of the last whole record, 0 if there is none, and the
// state that the last record with one gives.
func (h *history) last() (seq uint64, state string) {
	lines, torn, err := h.lines()
	h.torn = torn
	if err != nil {
		return 0, ""
	}
	for i := len(lines) - 1; i >= 0 && (seq == 0 || state == ""); i-- {
		fields := strings.Fields(lines[i])
		if len(fields) < 4 {
			continue
		}
		if n, err := strconv.ParseUint(fields[0], 10, 64); err == nil && seq == 0 {
			seq = n
		}
		for _, f := range fields[4:] {
			if s, ok := strings.CutPrefix(f, "state="); ok && state == "" {
				state = s
			}
		}
	}
	return seq, state
}

// lines returns the whole lines of the file and whether there is a piece of one
// after them.
func (h *history) lines() (lines []string, torn bool, err error) {
	b, err := os.ReadFile(h.path)
	if err != nil {
		return nil, false, ignoreMissing(err)
	}
	i := bytes.LastIndexByte(b, '\n')
	torn = i+1 < len(b)
	if i < 0 {
		return nil, torn, nil
	}
	return strings.Split(string(b[:i]), "\n"), torn, nil
}

// add appends a line. The file is opened for it each time: events are rare, VMs
// many.
func (h *history) add(line string) error {
	f, err := os.OpenFile(h.path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	line += "\n"
	if h.torn {
		line = "\n" + line
	}
	n, err := io.WriteString(f, line)
	if n > 0 {
		h.torn = err != nil
	}
	if err != nil {
		return err
	}
	if fi, err := f.Stat(); err != nil || fi.Size() <= maxHistory {
		return err
	}
	b := make([]byte, maxHistory/2)
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if _, err := f.ReadAt(b, end-int64(len(b))); err != nil {
		return err
	}
	return replaceFile(h.path, b[bytes.IndexByte(b, '\n')+1:])
}
