package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"time"
)

// An Event is one record of the file that the VMM writes its events to.
type Event struct {
	// Time is how long the VMM had been running.
	Time time.Duration
	// Source and Name are what happened where, as in "vm" and "paused".
	Source, Name string
	// Properties say more of it, as {"id": "disk0"}; nil for most.
	Properties map[string]string
}

// ErrCut means that the file has bytes which are no whole record: the VMM does not look at
// whether its writes succeed, so a full disk cuts records, or takes them.
var ErrCut = errors.New("a record of the event file is cut short")

// maxRecord bounds a record in bytes. A whole one has a few hundred.
const maxRecord = 64 << 10

// A Decoder reads the event file: JSON objects as serde prints them prettily, with an empty line
// between, so that a brace alone in the first column begins and ends each. It can follow a file
// that grows.
type Decoder struct {
	r    io.Reader
	read []byte

	buf  []byte // what was read and is not behind
	off  int64  // of buf in what was read
	open bool   // buf begins with a record
	line int    // where in buf the first line begins that was not looked at
	next *Event // found, and not returned yet
	cut  bool   // bytes were passed over, which was not said yet
}

// NewDecoder returns a decoder of what r has.
func NewDecoder(r io.Reader) *Decoder { return &Decoder{r: r, read: make([]byte, 4096)} }

// Offset returns how many bytes are behind: up to the end of the last record, and of what was
// passed over since.
func (d *Decoder) Offset() int64 { return d.off }

// Next returns the next event, or what r says when there is no whole one: at io.EOF a file may
// have grown when Next is called again. For bytes that are no record it returns ErrCut, and goes
// on behind them at the next call.
func (d *Decoder) Next() (Event, error) {
	for {
		switch more := d.step(); {
		case d.cut:
			d.cut = false
			return Event{}, ErrCut
		case d.next != nil:
			ev := *d.next
			d.next = nil
			return ev, nil
		case more:
			n, err := d.r.Read(d.read)
			d.buf = append(d.buf, d.read[:n]...)
			if n == 0 && err != nil {
				return Event{}, err
			}
		}
	}
}

// step looks at one line. It returns true when there is none to look at.
func (d *Decoder) step() (more bool) {
	if d.next != nil || d.line == len(d.buf) {
		return d.next == nil
	}
	rest := d.buf[d.line:]
	end := bytes.IndexByte(rest, '\n')
	switch {
	case rest[0] == '}': // the separator behind it is written later
		if ev, begin, ok := find(d.buf[:d.line+1]); ok && d.open {
			d.next = &ev
			d.cut = begin > 0
		} else {
			d.cut = true
		}
		d.pass(d.line + 1)
	case end < 0:
		if len(d.buf) > maxRecord {
			d.cut = true
			d.pass(len(d.buf))
		}
		return true
	case end == 0: // a separator: no record has one within it
		d.cut = d.open
		d.pass(d.line + 1)
	case rest[end-1] == '{' && (end == 1 || !d.open): // a record, perhaps behind one that was cut
		begin := d.line + end - 1
		d.cut = begin > 0
		d.pass(begin)
		d.open, d.line = true, len("{\n")
	case d.open && d.line+end < maxRecord:
		d.line += end + 1
	default:
		d.cut = true
		d.pass(d.line + end + 1)
	}
	return false
}

// pass leaves n bytes behind, and with them the record that was open.
func (d *Decoder) pass(n int) {
	d.off += int64(n)
	d.buf = append(d.buf[:0], d.buf[n:]...)
	d.open, d.line = false, 0
}

// find returns the event that b ends with, and where it begins: not with b itself if that is
// what is left of another one.
func find(b []byte) (ev Event, begin int, ok bool) {
	const objects = 4 // of a record, and one that was cut
	if ev, ok = event(b); ok {
		return ev, 0, true
	}
	begin = len(b)
	for range objects {
		if begin = bytes.LastIndex(b[:begin], []byte("{\n")); begin < 0 {
			break
		}
		if ev, ok = event(b[begin:]); ok {
			return ev, begin, true
		}
	}
	return Event{}, 0, false
}

// event reads one record.
func event(b []byte) (Event, bool) {
	var rec struct {
		Timestamp struct {
			Secs  int64 `json:"secs"`
			Nanos int64 `json:"nanos"`
		} `json:"timestamp"`
		Source     string            `json:"source"`
		Event      string            `json:"event"`
		Properties map[string]string `json:"properties"`
	}
	if err := json.Unmarshal(b, &rec); err != nil || rec.Source == "" || rec.Event == "" {
		return Event{}, false
	}
	t := time.Duration(rec.Timestamp.Secs)*time.Second + time.Duration(rec.Timestamp.Nanos)
	return Event{Time: t, Source: rec.Source, Name: rec.Event, Properties: rec.Properties}, true
}
