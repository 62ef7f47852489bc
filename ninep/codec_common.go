package ninep

// The messages that are the same in every dialect, or differ by a user's
// number alone.
func init() {
	register(msgTauth, message{
		name: "Tauth", in: dialectAll, run: runAuth,
		decode: func(r *request, d *dec) {
			r.fid2 = d.u32()
			r.decodeUser(d)
		},
	})
	register(msgTattach, message{
		name: "Tattach", in: dialectAll, run: runAttach, encode: encodeQID,
		decode: func(r *request, d *dec) {
			r.fid, r.fid2 = d.u32(), d.u32()
			r.decodeUser(d)
		},
	})
	register(msgTflush, message{
		name: "Tflush", in: dialectAll, run: runFlush,
		decode: func(r *request, d *dec) { r.count = uint32(d.u16()) },
	})
	register(msgTwalk, message{
		name: "Twalk", in: dialectAll, run: runWalk, encode: encodeWalk, decode: decodeWalk,
	})
	register(msgTread, message{
		name: "Tread", in: dialectAll, run: runRead,
		decode: func(r *request, d *dec) { r.fid, r.offset, r.count = d.u32(), d.u64(), d.u32() },
	})
	register(msgTwrite, message{
		name: "Twrite", in: dialectAll, run: runWrite,
		decode: func(r *request, d *dec) {
			r.fid, r.offset = d.u32(), d.u64()
			n := d.u32()
			if uint64(n) > uint64(len(d.b)) {
				d.bad = true
				return
			}
			r.data = d.take(int(n))
		},
		encode: func(r *request, e *enc) { e.u32(r.written) },
	})
	register(msgTclunk, message{name: "Tclunk", in: dialectAll, run: runClunk, decode: decodeFid})
	register(msgTremove, message{name: "Tremove", in: dialectAll, run: runRemove, decode: decodeFid})
}

func decodeFid(r *request, d *dec) { r.fid = d.u32() }

// decodeUser reads who attaches to what: 9P2000 knows users by name alone.
func (r *request) decodeUser(d *dec) {
	r.name, r.name2 = string(d.str()), string(d.str())
	r.uid = NoUser
	if !r.s.is(dialect9P) {
		r.uid = d.u32()
	}
}

func decodeWalk(r *request, d *dec) {
	r.fid, r.fid2 = d.u32(), d.u32()
	r.nnames = int(d.u16())
	for i := range r.nnames {
		name := d.str()
		if d.bad {
			return
		}
		if i < maxNames { // runWalk refuses more
			r.names[i] = r.s.c.intern(name)
		}
	}
}

func encodeQID(r *request, e *enc) { e.qid(r.s.sent(r.qid)) }

func encodeWalk(r *request, e *enc) {
	e.u16(uint16(r.nqids))
	for i := range r.nqids {
		e.qid(r.qids[i])
	}
}

func encodeOpen(r *request, e *enc) {
	e.qid(r.s.sent(r.qid))
	e.u32(r.s.ioUnit(r.count))
}
