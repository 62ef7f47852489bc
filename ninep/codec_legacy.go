package ninep

import "encoding/binary"

// The messages of 9P2000 and 9P2000.u that 9P2000.L replaced.
func init() {
	register(msgTopen, message{
		name: "Topen", in: dialectLegacy, run: runOpen9P, encode: encodeOpen,
		decode: func(r *request, d *dec) { r.fid, r.mode = d.u32(), uint32(d.u8()) },
	})
	register(msgTcreate, message{
		name: "Tcreate", in: dialectLegacy, run: runCreate9P, encode: encodeOpen,
		decode: func(r *request, d *dec) {
			r.fid, r.name = d.u32(), string(d.str())
			r.mode, r.flags = d.u32(), uint32(d.u8())
			r.name2 = ""
			if r.s.is(dialectU) {
				r.name2 = string(d.str())
			}
			r.uid, r.gid = NoUser, NoUser
		},
	})
	register(msgTstat, message{
		name: "Tstat", in: dialectLegacy, run: runStat, decode: decodeFid,
		encode: func(r *request, e *enc) {
			start := len(e.b)
			e.u16(0)
			r.s.encodeStat(e, r.stat)
			binary.LittleEndian.PutUint16(e.b[start:], uint16(len(e.b)-start-2))
		},
	})
	register(msgTwstat, message{
		name: "Twstat", in: dialectLegacy, run: runWstat,
		decode: func(r *request, d *dec) {
			r.fid = d.u32()
			r.stat = r.s.decodeStat(d)
		},
	})
}
