package ninep

import (
	"context"
	"time"

	"github.com/hugelgupf/p9/p9"
)

type msgType uint8

// dialect is a set of dialects; a session has one.
type dialect uint8

const (
	dialect9P dialect = 1 << iota // 9P2000
	dialectU                      // 9P2000.u
	dialectL                      // 9P2000.L
	dialectG2                     // 9P2000.L.Google.2 and up, beside dialectL
	dialectG3                     // 9P2000.L.Google.3 and up, beside dialectL

	dialectAll    = dialect9P | dialectU | dialectL
	dialectLegacy = dialect9P | dialectU
)

// message is a kind of request: how its arguments are read from the wire, what
// it does, and how its results are written. A dialect is a set of them.
type message struct {
	name string
	in   dialect

	// decode reads the arguments. It sees bad only in the decoder.
	decode func(r *request, d *dec)

	// run checks the request and carries it out, or starts it (then it gives
	// errLater), in the reading goroutine.
	run func(r *request) error

	// encode writes the results; nil if there are none.
	encode func(r *request, e *enc)
}

// request is one T-message: its arguments, and then its results. A connection
// has one that it uses again and again; requests that block are copies.
type request struct {
	s   *session
	m   *message
	typ msgType
	tag uint16

	// Arguments, as far as the message has them.
	fid, fid2    uint32
	count        uint32
	flags        uint32
	mode         uint32
	uid, gid     uint32
	major, minor uint32
	offset       uint64
	length       uint64
	name, name2  string
	nnames       int
	data         []byte
	attrMask     p9.AttrMask
	setMask      p9.SetAttrMask
	setAttr      p9.SetAttr
	stat         *stat

	f, f2 *fid // what fid and fid2 are

	// Results.
	qid     p9.QID
	nqids   int
	status  uint8
	written uint32

	*wide
	async
}

// wide is what takes much room and belongs to requests alone that never have a
// goroutine of their own: their copies do without. A connection has one.
type wide struct {
	names  [maxNames]string
	qids   [maxNames]p9.QID
	attr   p9.Attr
	fsstat p9.FSStat
}

// async is the part of a request that has a goroutine of its own.
type async struct {
	exec   func(ctx context.Context, r *request) error
	undo   func(r *request) // see laterOr; may be nil
	ctx    context.Context
	cancel context.CancelCauseFunc
	lane   *lane
	buf    *buf // of data to write, or room for the reply to a read
	held   int  // its bytes, for the limit

	// Guarded by session.mu.
	next    *request // in the lane
	started bool
	flushes []uint16 // tags of the Tflushes to answer after it
	late    *time.Timer
}

const maxNames = 16

// messageTable finds a message by its type.
type messageTable [256]message

// The types mean different things in different dialects.
var tableL, tableLegacy messageTable

func register(typ msgType, m message) {
	if m.in&(dialectL|dialectG2|dialectG3) != 0 {
		tableL[typ] = m
	}
	if m.in&dialectLegacy != 0 {
		tableLegacy[typ] = m
	}
}

// Message types, as intro(5) and the dialects' documents number them.
const (
	msgRlerror      msgType = 7
	msgTstatfs      msgType = 8
	msgTlopen       msgType = 12
	msgTlcreate     msgType = 14
	msgTsymlink     msgType = 16
	msgTmknod       msgType = 18
	msgTrename      msgType = 20
	msgTreadlink    msgType = 22
	msgTgetattr     msgType = 24
	msgTsetattr     msgType = 26
	msgTxattrwalk   msgType = 30
	msgTxattrcreate msgType = 32
	msgTreaddir     msgType = 40
	msgTfsync       msgType = 50
	msgTlock        msgType = 52
	msgTgetlock     msgType = 54
	msgTlink        msgType = 70
	msgTmkdir       msgType = 72
	msgTrenameat    msgType = 74
	msgTunlinkat    msgType = 76
	msgTversion     msgType = 100
	msgRversion     msgType = 101
	msgTauth        msgType = 102
	msgTattach      msgType = 104
	msgRerror       msgType = 107
	msgTflush       msgType = 108
	msgRflush       msgType = 109
	msgTwalk        msgType = 110
	msgTopen        msgType = 112
	msgTcreate      msgType = 114
	msgTread        msgType = 116
	msgRread        msgType = 117
	msgTwrite       msgType = 118
	msgTclunk       msgType = 120
	msgTremove      msgType = 122
	msgTstat        msgType = 124
	msgTwstat       msgType = 126 // Twalkgetattr in Google's

	msgTwalkgetattr msgType = 126
	msgTucreate     msgType = 128
	msgTumkdir      msgType = 130
	msgTumknod      msgType = 132
	msgTusymlink    msgType = 134
)
