package wire

import (
	"testing"

	"github.com/hugelgupf/p9/p9"
)

// BenchmarkCodec reads a request and writes its reply.
func BenchmarkCodec(b *testing.B) {
	for _, op := range []struct {
		name string
		typ  Type
		m    Msg
	}{
		{"getattr", Tgetattr, Msg{Mask: p9.AttrMaskAll}},
		{"walk", Twalk, Msg{Names: []string{"web", "state"}}},
		{"write", Twrite, Msg{Data: []byte("sixteen bytes..\n")}},
		{"clunk", Tclunk, Msg{}},
	} {
		b.Run(op.name, func(b *testing.B) {
			c := &Codec{Dialect: Linux}
			in := c.Append(nil, op.typ, &op.m)
			var (
				m   Msg
				out []byte
				a   p9.Attr
			)
			b.ReportAllocs()
			for b.Loop() {
				if err := c.Decode(in, &m); err != nil {
					b.Fatal(err)
				}
				m.Attr = &a
				out = c.Append(out[:0], op.typ+1, &m)
			}
		})
	}
}
