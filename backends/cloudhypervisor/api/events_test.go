package api

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Records as v53.0 wrote them.
const (
	booted = `{
  "timestamp": {
    "secs": 1,
    "nanos": 250000000
  },
  "source": "vm",
  "event": "booted",
  "properties": null
}

`
	activated = `{
  "timestamp": {
    "secs": 2,
    "nanos": 0
  },
  "source": "virtio-device",
  "event": "activated",
  "properties": {
    "id": "disk0"
  }
}

`
)

var (
	evBooted    = Event{Time: 1250 * time.Millisecond, Source: "vm", Name: "booted"}
	evActivated = Event{Time: 2 * time.Second, Source: "virtio-device", Name: "activated", Properties: map[string]string{"id": "disk0"}}
)

// decode returns all that a decoder finds in r, an Event with no name for ErrCut.
func decode(t *testing.T, r io.Reader) (evs []Event, offset int64) {
	d := NewDecoder(r)
	for {
		ev, err := d.Next()
		switch {
		case errors.Is(err, io.EOF):
			return evs, d.Offset()
		case errors.Is(err, ErrCut):
			ev = Event{}
		default:
			require.NoError(t, err)
		}
		evs = append(evs, ev)
	}
}

func TestDecoder(t *testing.T) {
	cut := Event{}
	for _, test := range []struct {
		name, in string
		want     []Event
	}{
		{"nothing", "", nil},
		{"whole records", booted + activated + booted, []Event{evBooted, evActivated, evBooted}},
		{"no separator yet", booted + strings.TrimSpace(activated), []Event{evBooted, evActivated}},
		{"a record that is being written", booted + activated[:60], []Event{evBooted}},
		{"separators are lost", strings.TrimSpace(booted) + strings.TrimSpace(activated) + booted, []Event{evBooted, evActivated, evBooted}},
		{"one is cut, its separator is there", activated[:60] + "\n\n" + booted, []Event{cut, evBooted}},
		{"one is cut within a word", activated[:90] + booted, []Event{cut, evBooted}},
		{"one is cut before a value", activated[:strings.LastIndex(activated, "{")] + booted + activated, []Event{cut, evBooted, evActivated}},
		{"one is cut at a line's end", activated[:strings.Index(activated, "  },")] + booted, []Event{cut, evBooted}},
		{"the beginning of one is lost", booted[20:] + activated, []Event{cut, evActivated}},
		{"something else", "disk full\n" + booted + "{}\n{\n}\n\n" + booted, []Event{cut, evBooted, cut, cut, evBooted}},
		{"a record without an event", "{\n  \"source\": \"vm\"\n}\n\n" + booted, []Event{cut, evBooted}},
		{"a line without end", strings.Repeat("x", 3*maxRecord) + "\n" + booted, []Event{cut, evBooted}},
		{"a record without end", "{\n" + strings.Repeat("  \"x\": 1,\n", maxRecord/8) + "\n" + booted, []Event{cut, evBooted}},
	} {
		t.Run(test.name, func(t *testing.T) {
			for name, r := range map[string]io.Reader{"at once": strings.NewReader(test.in), "byte by byte": iotest.OneByteReader(strings.NewReader(test.in))} {
				evs, _ := decode(t, r)
				// What is lost may be told in several parts.
				var got []Event
				for i, ev := range evs {
					if i == 0 || ev.Name != "" || evs[i-1].Name != "" {
						got = append(got, ev)
					}
				}
				var want []Event
				for i, ev := range test.want {
					if i == 0 || ev.Name != "" || test.want[i-1].Name != "" {
						want = append(want, ev)
					}
				}
				assert.Equal(t, want, got, name)
			}
		})
	}
}

// A file is read on where it ended, by the same decoder or by another one from its offset.
func TestDecoderFollows(t *testing.T) {
	var file bytes.Buffer
	d := NewDecoder(&file)
	all := booted + activated
	for i := range all {
		file.WriteByte(all[i])
		ev, err := d.Next()
		switch i {
		case strings.LastIndex(booted, "}"):
			require.NoError(t, err)
			assert.Equal(t, evBooted, ev)
			assert.EqualValues(t, i+1, d.Offset())
			evs, _ := decode(t, strings.NewReader(all[d.Offset():]))
			assert.Equal(t, []Event{evActivated}, evs)
		case strings.LastIndex(all, "}"):
			require.NoError(t, err)
			assert.Equal(t, evActivated, ev)
		default:
			require.ErrorIs(t, err, io.EOF, "byte %d", i)
		}
	}
}

// FuzzEvents decodes what it likes, at once and in pieces: the events are the same, a record
// that is whole and stands alone is found whatever was before it, and it ends.
func FuzzEvents(f *testing.F) {
	f.Add([]byte(booted+activated), 7)
	f.Add([]byte(activated[:90]+booted+activated[20:]), 1)
	f.Add([]byte("}{\n{\n\n}"+booted), 3)
	f.Fuzz(func(t *testing.T, in []byte, piece int) {
		events := func(evs []Event) (named []Event) {
			for _, ev := range evs {
				if ev.Name != "" {
					named = append(named, ev)
				}
			}
			return named
		}
		in = append(in, "\n\n"+booted...)
		whole, offset := decode(t, bytes.NewReader(in))
		require.LessOrEqual(t, offset, int64(len(in)))
		named := events(whole)
		require.NotEmpty(t, named)
		require.Equal(t, evBooted, named[len(named)-1])
		pieces, _ := decode(t, &slow{bytes.NewReader(in), 1 + int(uint(piece)%100)})
		require.Equal(t, named, events(pieces))
	})
}

// slow reads at most n bytes at a time.
type slow struct {
	r io.Reader
	n int
}

func (s *slow) Read(b []byte) (int, error) { return s.r.Read(b[:min(len(b), s.n)]) }
