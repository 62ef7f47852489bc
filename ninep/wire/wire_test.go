package wire

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/hugelgupf/p9/p9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/ninep/wire/wiretest"
)

var dialects = map[string]Dialect{"9P2000": Plan9, "9P2000.u": Unix, "9P2000.L": Linux, "9P2000.L.Google": Linux | Google2 | Google3}

// has reports whether a dialect has a message.
func has(d Dialect, t Type) bool { return d.message(t).in&d != 0 }

// frame makes a whole message of a body.
func frame(t Type, tag uint16, body []byte) []byte {
	b := append(make([]byte, HeaderSize), body...)
	PutHeader(b, t, tag)
	return b
}

// TestRequests holds what is read and written against the second description, with
// a value of its own in every field.
func TestRequests(t *testing.T) {
	seen := 0
	for name, d := range dialects {
		c := &Codec{Dialect: d}
		dialect := strings.TrimSuffix(name, ".Google")
		for kind := range wiretest.Formats {
			typ, fields, _ := wiretest.Format(dialect, kind)
			if !has(d, Type(typ)) || d.Name(Type(typ)) != kind || kind[0] != 'T' {
				continue
			}
			seen++
			args := make(map[string]string)
			for i, f := range fields {
				switch v := strconv.Itoa(i + 3); f.Kind {
				case "s", "data":
					args[f.Name] = "text" + v
				case "names":
					args[f.Name] = "a,bc,,d"
				case "nstat", "nstatu":
					args["mode"], args["name"], args["muid"] = "0755", "new", "who"
				default:
					args[f.Name] = v
				}
			}
			want := wiretest.Encode(dialect, kind, 77, args)
			var m Msg
			require.NoError(t, c.Decode(want, &m), "%s %s", name, kind)
			assert.Equal(t, Type(typ), m.Type)
			assert.Equal(t, uint16(77), m.Tag)
			assert.Equal(t, want, c.Append(nil, m.Type, &m), "%s %s", name, kind)
			assert.ErrorIs(t, c.Decode(frame(m.Type, 1, append(want[HeaderSize:], 0)), &m), ErrMalformed, "%s and a byte more", kind)
			if len(want) > HeaderSize && kind != "Tfsync" {
				assert.ErrorIs(t, c.Decode(frame(m.Type, 1, want[HeaderSize:len(want)-1]), &m), ErrMalformed, "%s and a byte less", kind)
			}
		}
	}
	assert.Greater(t, seen, 50)
}

// fill gives every number, bool and string within v a value.
func fill(v reflect.Value, rnd *rand.Rand) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), rnd)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), rnd)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 3, 3))
		for i := range 3 {
			fill(v.Index(i), rnd)
		}
	case reflect.Bool:
		v.SetBool(rnd.IntN(2) == 0)
	case reflect.String:
		v.SetString("s" + strconv.Itoa(rnd.IntN(1000)))
	default:
		v.SetUint(rnd.Uint64() >> (64 - v.Type().Bits()))
	}
}

// TestBothWays reads what it wrote, of every message and reply of every dialect, and
// the second description reads the replies too.
func TestBothWays(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for name, d := range dialects {
		c := &Codec{Dialect: d}
		for typ := range Type(255) {
			if !has(d, typ) {
				continue
			}
			var m, back Msg
			fill(reflect.ValueOf(&m).Elem(), rnd)
			b := c.Append(nil, typ, &m)
			require.NoError(t, c.Decode(b, &back), "%s %s", name, d.Name(typ))
			assert.Equal(t, m.Tag, back.Tag)
			assert.Equal(t, b, c.Append(nil, typ, &back), "%s %s", name, d.Name(typ))
			if typ&1 != 0 && typ != Rreaddir {
				reply, _, _, err := wiretest.Decode(strings.TrimSuffix(name, ".Google"), b)
				assert.NoError(t, err, "%s %s", name, d.Name(typ))
				assert.Contains(t, []string{d.Name(typ), "R" + strconv.Itoa(int(typ))}, reply)
			}
		}
	}
}

// TestDirectories reads the two ways to read a directory.
func TestDirectories(t *testing.T) {
	c := &Codec{Dialect: Linux}
	ents := []p9.Dirent{{QID: p9.QID{Type: p9.TypeDir, Path: 7}, Offset: 1, Type: 4, Name: "a"}, {Offset: 2, Name: "bc"}}
	var b []byte
	for i := range ents {
		was := len(b)
		b = c.AppendDirent(b, &ents[i])
		assert.Equal(t, len(b)-was, DirentSize(&ents[i]))
	}
	got, err := c.Dirents(b)
	require.NoError(t, err)
	assert.Equal(t, ents, got)
	_, err = c.Dirents(b[:len(b)-1])
	assert.ErrorIs(t, err, ErrMalformed)

	for _, d := range []Dialect{Plan9, Unix} {
		c := &Codec{Dialect: d}
		for _, st := range []Stat{Untouched, {Name: "x", UID: "u", Mode: DMDIR | 0o755, NUID: DontTouch, NGID: DontTouch, NMUID: DontTouch}} {
			// The answer to a Tstat has such a record, and its length once more.
			rec := c.AppendStat(nil, &st)
			body := append([]byte{byte(len(rec)), byte(len(rec) >> 8)}, rec...)
			var m Msg
			require.NoError(t, c.Decode(frame(Tstat+1, 1, body), &m))
			assert.Equal(t, st, *m.Stat)
			assert.ErrorIs(t, c.Decode(frame(Tstat+1, 1, body[:len(body)-1]), &m), ErrMalformed)
		}
	}
}

// TestRefused: what no client may send, and no server.
func TestRefused(t *testing.T) {
	c := &Codec{Dialect: Linux}
	var m Msg
	assert.ErrorIs(t, c.Decode(frame(250, 1, nil), &m), ErrUnknown)
	assert.ErrorIs(t, c.Decode(frame(Topen, 1, nil), &m), ErrUnknown)
	assert.ErrorIs(t, c.Decode(frame(Rlerror-1, 1, nil), &m), ErrUnknown)
	assert.ErrorIs(t, c.Decode(frame(Twalkgetattr, 1, nil), &m), ErrUnknown)
	assert.ErrorIs(t, c.Decode(wiretest.Encode("9P2000.L", "Trename", 1, map[string]string{"name": `"a\x00b"`}), &m), ErrMalformed, "a NUL in a name")

	many := strings.Repeat(",", 65534)
	require.NoError(t, c.Decode(wiretest.Encode("9P2000.L", "Twalk", 1, map[string]string{"names": many}), &m))
	assert.Len(t, m.Names, MaxNames+1, "a client must not make us keep more")

	long := strings.Repeat("x", 1<<17)
	require.NoError(t, c.Decode(c.Append(nil, Trename, &Msg{Name: long}), &m))
	assert.Len(t, m.Name, 1<<16-1, "no string of 9P is longer")
}

// TestMasks: a mask is that of its message, whatever the last one was.
func TestMasks(t *testing.T) {
	c := &Codec{Dialect: Linux}
	size, mode := p9.AttrMask{Size: true}, p9.AttrMask{Mode: true}
	for _, want := range []p9.AttrMask{size, size, mode, {}, mode, p9.AttrMaskAll, p9.AttrMaskAll, size, {}} {
		var m Msg
		b := c.Append(nil, Tgetattr, &Msg{Mask: want})
		assert.Equal(t, (&Codec{Dialect: Linux}).Append(nil, Tgetattr, &Msg{Mask: want}), b)
		require.NoError(t, (&Codec{Dialect: Linux}).Decode(b, &m))
		assert.Equal(t, want, m.Mask)
		require.NoError(t, c.Decode(b, &m))
		assert.Equal(t, want, m.Mask)
	}
	var m Msg
	require.NoError(t, c.Decode(wiretest.Encode("9P2000.L", "Tgetattr", 1, map[string]string{"mask": "MAX64"}), &m))
	assert.Equal(t, wiretest.Encode("9P2000.L", "Tgetattr", 1, map[string]string{"mask": "0x3fff"}), c.Append(nil, Tgetattr, &m), "bits that mean nothing")
}

func TestNegotiate(t *testing.T) {
	for version, want := range map[string]struct {
		d      Dialect
		answer string
	}{
		"9P2000":             {Plan9, "9P2000"},
		"9P2000.u":           {Unix, "9P2000.u"},
		"9P2000.L":           {Linux, "9P2000.L"},
		"9P2000.L.Google.1":  {Linux, "9P2000.L.Google.1"},
		"9P2000.L.Google.2":  {Linux | Google2, "9P2000.L.Google.2"},
		"9P2000.L.Google.99": {Linux | Google2 | Google3, "9P2000.L.Google.7"},
		"9P2000.L.other":     {Linux, "9P2000.L"},
		"9P2000.e":           {Plan9, "9P2000"},
		"9P3000":             {Plan9, "9P2000"},
		"9P1999":             {0, "unknown"},
		"":                   {0, "unknown"},
	} {
		d, answer, ok := Negotiate(version)
		assert.Equal(t, want.d, d, version)
		assert.Equal(t, want.answer, answer, version)
		assert.Equal(t, want.d != 0, ok, version)
	}
}

// FuzzDecoders decodes bytes as every message of every dialect, which must not
// panic, nor read what is not there, and is written again as it was.
func FuzzDecoders(f *testing.F) {
	for name := range dialects {
		for kind := range wiretest.Formats {
			if kind[0] == 'T' {
				f.Add(wiretest.Encode(strings.TrimSuffix(name, ".Google"), kind, 1, map[string]string{})[HeaderSize:])
			}
		}
	}
	f.Add(bytes.Repeat([]byte{0xff}, 100))
	f.Fuzz(func(t *testing.T, body []byte) {
		var m, again Msg
		for _, d := range dialects {
			c := &Codec{Dialect: d}
			for typ := range Type(255) {
				if !has(d, typ) {
					continue
				}
				in := frame(typ, 9, body)
				if c.Decode(in, &m) != nil || len(m.Names) > MaxNames {
					continue
				}
				out := c.Append(nil, typ, &m)
				switch typ {
				case Tgetattr, Tgetattr + 1, Twalkgetattr + 1, Tsetattr, Tfsync:
					// Bits that mean nothing are left out, and Tfsync's last field is put in.
					if err := c.Decode(out, &again); err != nil {
						t.Fatalf("%s: %v\n% x\n% x", d.Name(typ), err, in, out)
					}
					in, out = out, c.Append(nil, typ, &again)
				}
				if !bytes.Equal(in, out) {
					t.Fatalf("%s changes on the way:\n% x\n% x", d.Name(typ), in, out)
				}
			}
		}
	})
}
