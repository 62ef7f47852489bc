package events

import (
	"bytes"
	"io"
	"os"
	"strconv"
	"strings"

	"vmfs/internal/durable"
	"vmfs/internal/regular"
)

// The events file of a VM holds its events as lines. It is appended to; when it
// has grown past maxHistory its older half goes.
const maxHistory = 256 << 10

// A History is the events file of one VM. Its methods are called one at a time.
type History struct {
	Path string
	// torn tells that the file may end within a line, after a crash or a full
	// disk, which the next line must not continue.
	torn bool
}

// Last returns the number of the last whole event, 0 if there is none, and the
// state that the last event with one gives.
func (h *History) Last() (seq uint64, state string) {
	lines, torn, err := h.Lines()
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

// Lines returns the whole lines of the file and whether there is a piece of one
// after them.
func (h *History) Lines() (lines []string, torn bool, err error) {
	b, err := regular.ReadFile(h.Path, 4*maxHistory)
	if err != nil {
		return nil, false, durable.IgnoreMissing(err)
	}
	i := bytes.LastIndexByte(b, '\n')
	torn = i+1 < len(b)
	if i < 0 {
		return nil, torn, nil
	}
	return strings.Split(string(b[:i]), "\n"), torn, nil
}

// Add appends a line. The file is opened for it each time: events are rare, VMs
// many.
func (h *History) Add(line string) error {
	f, err := regular.OpenFile(h.Path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
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
	return durable.Replace(h.Path, b[bytes.IndexByte(b, '\n')+1:])
}
