// Package wiretest is a second description of 9P's messages, for tests: what
// package wire is held against. It imports the standard library, and p9's errnos.
package wiretest

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"github.com/hugelgupf/p9/linux"
)

// Formats describe the messages: a number, and a list of fields, "kind:name".
var Formats = map[string]string{
	// every dialect
	"Tversion": "100 u32:msize s:version", "Rversion": "101 u32:msize s:version",
	"Tauth": "102 u32:afid s:uname s:aname", "Rauth": "103 qid:aqid",
	"Tattach": "104 u32:fid u32:afid s:uname s:aname", "Rattach": "105 qid:qid",
	"Rerror": "107 s:ename",
	"Tflush": "108 u16:oldtag", "Rflush": "109",
	"Twalk": "110 u32:fid u32:newfid names:names", "Rwalk": "111 qids:qids",
	"Twalk17": "110 u32:fid u32:newfid u16:n raw:data",
	"Tread":   "116 u32:fid u64:offset u32:count", "Rread": "117 data:data",
	"Twrite": "118 u32:fid u64:offset data:data", "Rwrite": "119 u32:count",
	"Tclunk": "120 u32:fid", "Rclunk": "121",
	"Tremove": "122 u32:fid", "Rremove": "123",
	// 9P2000
	"Topen": "112 u32:fid u8:mode", "Ropen": "113 qid:qid u32:iounit",
	"Tcreate": "114 u32:fid s:name u32:perm u8:mode", "Rcreate": "115 qid:qid u32:iounit",
	"Tstat": "124 u32:fid", "Rstat": "125 nstat:stat",
	"Twstat": "126 u32:fid nstat:stat", "Rwstat": "127",
	// 9P2000.L
	"Rlerror": "7 u32:ecode",
	"Tstatfs": "8 u32:fid", "Rstatfs": "9 u32:type u32:bsize u64:blocks u64:bfree u64:bavail u64:files u64:ffree u64:fsid u32:namelen",
	"Tlopen": "12 u32:fid u32:flags", "Rlopen": "13 qid:qid u32:iounit",
	"Tlcreate": "14 u32:fid s:name u32:flags u32:mode u32:gid", "Rlcreate": "15 qid:qid u32:iounit",
	"Tsymlink": "16 u32:dfid s:name s:symtgt u32:gid", "Rsymlink": "17 qid:qid",
	"Tmknod": "18 u32:dfid s:name u32:mode u32:major u32:minor u32:gid", "Rmknod": "19 qid:qid",
	"Trename": "20 u32:fid u32:dfid s:name", "Rrename": "21",
	"Treadlink": "22 u32:fid", "Rreadlink": "23 s:target",
	"Tgetattr": "24 u32:fid u64:mask", "Rgetattr": "25 u64:valid qid:qid u32:mode u32:uid u32:gid u64:nlink u64:rdev u64:size u64:blksize u64:blocks u64:atime u64:atimens u64:mtime u64:mtimens u64:ctime u64:ctimens u64:btime u64:btimens u64:gen u64:dataversion",
	"Tsetattr": "26 u32:fid u32:valid u32:mode u32:uid u32:gid u64:size u64:atime u64:atimens u64:mtime u64:mtimens", "Rsetattr": "27",
	"Txattrwalk": "30 u32:fid u32:newfid s:name", "Rxattrwalk": "31 u64:size",
	"Txattrcreate": "32 u32:fid s:name u64:size u32:flags", "Rxattrcreate": "33",
	"Treaddir": "40 u32:fid u64:offset u32:count", "Rreaddir": "41 dirents:entries",
	"Tfsync": "50 u32:fid u32:datasync", "Rfsync": "51", "Tfsync0": "50 u32:fid",
	"Tlock": "52 u32:fid u8:type u32:flags u64:start u64:length u32:pid s:client", "Rlock": "53 u8:status",
	"Tgetlock": "54 u32:fid u8:type u64:start u64:length u32:pid s:client", "Rgetlock": "55 u8:type u64:start u64:length u32:pid s:client",
	"Tlink": "70 u32:dfid u32:fid s:name", "Rlink": "71",
	"Tmkdir": "72 u32:dfid s:name u32:mode u32:gid", "Rmkdir": "73 qid:qid",
	"Trenameat": "74 u32:olddfid s:oldname u32:newdfid s:newname", "Rrenameat": "75",
	"Tunlinkat": "76 u32:dfid s:name u32:flags", "Runlinkat": "77",
	// 9P2000.L.Google
	"Twalkgetattr": "126 u32:fid u32:newfid names:names",
	"Rwalkgetattr": "127 u64:valid u32:mode u32:uid u32:gid u64:nlink u64:rdev u64:size u64:blksize u64:blocks u64:atime u64:atimens u64:mtime u64:mtimens u64:ctime u64:ctimens u64:btime u64:btimens u64:gen u64:dataversion qids:qids",
	"Tumkdir":      "130 u32:dfid s:name u32:mode u32:gid u32:uid", "Rumkdir": "131 qid:qid",
	"Tucreate": "128 u32:fid s:name u32:flags u32:mode u32:gid u32:uid", "Rucreate": "129 qid:qid u32:iounit",
	"Tumknod": "132 u32:dfid s:name u32:mode u32:major u32:minor u32:gid u32:uid", "Rumknod": "133 qid:qid",
	"Tusymlink": "134 u32:dfid s:name s:symtgt u32:gid u32:uid", "Rusymlink": "135 qid:qid",
	// no message at all
	"Tnothing": "250 u32:fid",
	"Trubbish": "110 raw:data",
}

// dialectFormats replace formats in a dialect.
var dialectFormats = map[string]map[string]string{
	"9P2000": {},
	"9P2000.u": {
		"Tauth":   "102 u32:afid s:uname s:aname u32:uid",
		"Tattach": "104 u32:fid u32:afid s:uname s:aname u32:uid",
		"Rerror":  "107 s:ename u32:ecode",
		"Tcreate": "114 u32:fid s:name u32:perm u8:mode s:extension",
		"Rstat":   "125 nstatu:stat", "Twstat": "126 u32:fid nstatu:stat",
	},
	"9P2000.L": {
		"Tauth":   "102 u32:afid s:uname s:aname u32:uid",
		"Tattach": "104 u32:fid u32:afid s:uname s:aname u32:uid",
	},
}

// Field is a field of a message.
type Field struct{ Kind, Name string }

// Format gives the type and fields of a message in a dialect.
func Format(dialect, name string) (typ uint8, fields []Field, ok bool) {
	f, ok := dialectFormats[dialect][name]
	if !ok {
		if f, ok = Formats[name]; !ok {
			return 0, nil, false
		}
	}
	parts := strings.Fields(f)
	n, err := strconv.Atoi(parts[0])
	if err != nil {
		panic(f)
	}
	for _, p := range parts[1:] {
		kind, fname, _ := strings.Cut(p, ":")
		fields = append(fields, Field{kind, fname})
	}
	return uint8(n), fields, true
}

// replyName finds the name of a reply's type.
func replyName(dialect string, typ uint8) string {
	for name := range Formats {
		if name[0] != 'R' {
			continue
		}
		if t, _, _ := Format(dialect, name); t == typ {
			if name == "Rwstat" && dialect == "9P2000.L" || name == "Rwalkgetattr" && dialect != "9P2000.L" {
				continue
			}
			return name
		}
	}
	return fmt.Sprintf("R%d", typ)
}

// errnoNames are those that traces use.
var errnoNames = map[string]linux.Errno{
	"EPERM": linux.EPERM, "ENOENT": linux.ENOENT, "EINTR": linux.EINTR, "EIO": linux.EIO, "EBADF": linux.EBADF,
	"EACCES": linux.EACCES, "EBUSY": linux.EBUSY, "EEXIST": linux.EEXIST, "ENOTDIR": linux.ENOTDIR, "EISDIR": linux.EISDIR,
	"EINVAL": linux.EINVAL, "ENFILE": linux.ENFILE, "EFBIG": linux.EFBIG, "ENOSPC": linux.ENOSPC, "ENOTEMPTY": linux.ENOTEMPTY,
	"ELOOP": linux.ELOOP, "ENODATA": linux.ENODATA, "EBADMSG": linux.EBADMSG, "EOPNOTSUPP": linux.EOPNOTSUPP,
	"EMSGSIZE": linux.EMSGSIZE, "ENOSYS": linux.ENOSYS, "EPROTO": linux.EPROTO, "ENOBUFS": linux.ENOBUFS, "E2BIG": linux.E2BIG,
	"ETIMEDOUT": linux.ETIMEDOUT,
}

// Number reads a number, or one of the names that stand for some.
func Number(s string) uint64 {
	if e, ok := errnoNames[s]; ok {
		return uint64(e)
	}
	switch s {
	case "NOFID", "NONUNAME", "NOGID":
		return 0xffffffff
	case "MAX16":
		return 0xffff
	case "MAX64":
		return ^uint64(0)
	}
	n, err := strconv.ParseUint(s, 0, 64)
	if err != nil {
		panic(fmt.Sprintf("%q is no number", s))
	}
	return n
}

// String takes the quotes off a string that has them.
func String(s string) string {
	if strings.HasPrefix(s, `"`) {
		u, err := strconv.Unquote(s)
		if err != nil {
			panic(fmt.Sprintf("%s: %v", s, err))
		}
		return u
	}
	return s
}

// List takes a list apart.
func List(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

// Encode makes a frame of a message's name and its fields' values, which it takes
// out of args.
func Encode(dialect, name string, tag uint16, args map[string]string) []byte {
	typ, fields, ok := Format(dialect, name)
	if !ok {
		panic("no message " + name)
	}
	e := new(enc)
	e.begin(typ, tag)
	for _, f := range fields {
		v := args[f.Name]
		delete(args, f.Name)
		if v == "" && f.Kind[0] == 'u' {
			v = "0"
		}
		switch f.Kind {
		case "u8":
			e.u8(uint8(Number(v)))
		case "u16":
			e.u16(uint16(Number(v)))
		case "u32":
			e.u32(uint32(Number(v)))
		case "u64":
			e.u64(Number(v))
		case "s":
			e.str(String(v))
		case "data":
			s := String(v)
			e.u32(uint32(len(s)))
			e.b = append(e.b, s...)
		case "raw":
			e.b = append(e.b, String(v)...)
		case "names":
			names := List(v)
			e.u16(uint16(len(names)))
			for _, n := range names {
				e.str(String(n))
			}
		case "nstat", "nstatu":
			s := encodeStat(args, f.Kind == "nstatu")
			e.u16(uint16(len(s)))
			e.b = append(e.b, s...)
		default:
			panic("cannot encode " + f.Kind)
		}
	}
	if len(args) > 0 {
		panic(fmt.Sprintf("%s has no field %v", name, args))
	}
	e.end(0)
	return e.b
}

// encodeStat makes a stat record of a Twstat's fields; those left out are "do
// not touch".
func encodeStat(args map[string]string, u bool) []byte {
	num := func(name string) uint64 {
		v, ok := args[name]
		delete(args, name)
		if !ok {
			return ^uint64(0)
		}
		return Number(v)
	}
	str := func(name string) string {
		v := args[name]
		delete(args, name)
		return String(v)
	}
	e := new(enc)
	e.u16(0)
	e.u16(uint16(num("type")))
	e.u32(uint32(num("dev")))
	e.u8(uint8(num("qtype")))
	e.u32(uint32(num("qvers")))
	e.u64(num("qpath"))
	e.u32(uint32(num("mode")))
	e.u32(uint32(num("atime")))
	e.u32(uint32(num("mtime")))
	e.u64(num("length"))
	e.str(str("name"))
	e.str(str("uid"))
	e.str(str("gid"))
	e.str(str("muid"))
	if u {
		e.str(str("extension"))
		e.u32(uint32(num("n_uid")))
		e.u32(uint32(num("n_gid")))
		e.u32(uint32(num("n_muid")))
	}
	binary.LittleEndian.PutUint16(e.b, uint16(len(e.b)-2))
	return e.b
}

// Decode takes a reply apart: its name, and its fields as text.
func Decode(dialect string, frame []byte) (name string, tag uint16, vals map[string]string, err error) {
	name = replyName(dialect, frame[4])
	tag = binary.LittleEndian.Uint16(frame[5:])
	_, fields, ok := Format(dialect, name)
	if !ok {
		return name, tag, nil, fmt.Errorf("reply of unknown type %d", frame[4])
	}
	vals = make(map[string]string)
	d := &dec{b: frame[7:]}
	qid := func() string {
		t, v, p := d.u8(), d.u32(), d.u64()
		kind := map[uint8]string{0: "f", 0x80: "d", 2: "l"}[t]
		if kind == "" {
			kind = strconv.Itoa(int(t))
		}
		return fmt.Sprintf("%s:%d:%d", kind, v, p)
	}
	num := func(v uint64) string { return strconv.FormatUint(v, 10) }
	for _, f := range fields {
		var v string
		switch f.Kind {
		case "u8":
			v = num(uint64(d.u8()))
		case "u16":
			v = num(uint64(d.u16()))
		case "u32":
			v = num(uint64(d.u32()))
		case "u64":
			v = num(d.u64())
		case "s":
			v = strconv.Quote(string(d.str()))
		case "data":
			p := d.take(int(d.u32()))
			vals["count"] = num(uint64(len(p)))
			vals["names"] = recordNames(p)
			v = strconv.Quote(string(p))
		case "qid":
			v = qid()
		case "qids":
			var list []string
			for range d.u16() {
				list = append(list, qid())
			}
			v = strings.Join(list, ",")
		case "dirents":
			sub := &dec{b: d.take(int(d.u32()))}
			var list []string
			for len(sub.b) > 0 && !sub.bad {
				sub.take(13)
				off, typ := sub.u64(), sub.u8()
				list = append(list, fmt.Sprintf("%s:%d:%d", sub.str(), typ, off))
			}
			d.bad = d.bad || sub.bad
			v = strings.Join(list, ",")
		case "nstat", "nstatu":
			sub := &dec{b: d.take(int(d.u16()))}
			for k, s := range statFields(sub, f.Kind == "nstatu") {
				vals[k] = s
			}
			d.bad = d.bad || !sub.ok()
			continue
		}
		vals[f.Name] = v
	}
	if !d.ok() {
		return name, tag, vals, fmt.Errorf("%s is malformed: % x", name, frame)
	}
	return name, tag, vals, nil
}

// recordNames gives the names in the 9P2000 records of a directory's Rread;
// nothing if that is not what it is.
func recordNames(p []byte) string {
	var names []string
	for d := (&dec{b: p}); len(d.b) > 0; {
		rec := &dec{b: d.take(int(d.u16()))}
		rec.take(2 + 4 + 13 + 4 + 4 + 4 + 8)
		names = append(names, string(rec.str()))
		rec.str()
		rec.str()
		rec.str()
		if d.bad || !rec.ok() {
			return ""
		}
	}
	return strings.Join(names, ",")
}

func statFields(d *dec, u bool) map[string]string {
	vals := make(map[string]string)
	num := func(name string, v uint64) { vals[name] = strconv.FormatUint(v, 10) }
	if size := int(d.u16()); size != len(d.b) && !(size <= len(d.b)) {
		d.bad = true
	}
	num("type", uint64(d.u16()))
	num("dev", uint64(d.u32()))
	num("qtype", uint64(d.u8()))
	num("qvers", uint64(d.u32()))
	num("qpath", d.u64())
	vals["mode"] = fmt.Sprintf("%#o", d.u32())
	num("atime", uint64(d.u32()))
	num("mtime", uint64(d.u32()))
	num("length", d.u64())
	for _, name := range []string{"name", "uid", "gid", "muid"} {
		vals[name] = strconv.Quote(string(d.str()))
	}
	if u {
		vals["extension"] = strconv.Quote(string(d.str()))
		for _, name := range []string{"n_uid", "n_gid", "n_muid"} {
			num(name, uint64(d.u32()))
		}
	}
	return vals
}

// Equal compares a value of a reply with what a trace says: a number, a
// string, or something with * in it.
func Equal(got, want string) bool {
	if want == "*" || got == want {
		return true
	}
	if _, ok := errnoNames[want]; ok {
		return got == strconv.FormatUint(uint64(errnoNames[want]), 10)
	}
	if !strings.HasPrefix(want, `"`) && strings.HasPrefix(got, `"`) {
		return String(got) == want
	}
	if g, err := strconv.ParseUint(got, 0, 64); err == nil {
		if w, err := strconv.ParseUint(want, 0, 64); err == nil {
			return g == w
		}
	}
	gl, wl := strings.Split(got, ","), strings.Split(want, ",")
	if len(gl) != len(wl) || !strings.Contains(want, "*") {
		return false
	}
	for i := range gl {
		gp, wp := strings.Split(gl[i], ":"), strings.Split(wl[i], ":")
		if len(gp) != len(wp) {
			return false
		}
		for j := range gp {
			if wp[j] != "*" && gp[j] != wp[j] {
				return false
			}
		}
	}
	return true
}
