package wire

import "github.com/hugelgupf/p9/p9"

// Type is a message's type.
type Type uint8

// The requests. The reply to one has the next number.
const (
	Tstatfs      Type = 8
	Tlopen       Type = 12
	Tlcreate     Type = 14
	Tsymlink     Type = 16
	Tmknod       Type = 18
	Trename      Type = 20
	Treadlink    Type = 22
	Tgetattr     Type = 24
	Tsetattr     Type = 26
	Txattrwalk   Type = 30
	Txattrcreate Type = 32
	Treaddir     Type = 40
	Tfsync       Type = 50
	Tlock        Type = 52
	Tgetlock     Type = 54
	Tlink        Type = 70
	Tmkdir       Type = 72
	Trenameat    Type = 74
	Tunlinkat    Type = 76
	Tversion     Type = 100
	Tauth        Type = 102
	Tattach      Type = 104
	Tflush       Type = 108
	Twalk        Type = 110
	Topen        Type = 112
	Tcreate      Type = 114
	Tread        Type = 116
	Twrite       Type = 118
	Tclunk       Type = 120
	Tremove      Type = 122
	Tstat        Type = 124
	Twstat       Type = 126
	Twalkgetattr Type = 126 // the same number, in 9P2000.L.Google
	Tucreate     Type = 128
	Tumkdir      Type = 130
	Tumknod      Type = 132
	Tusymlink    Type = 134

	// Some replies that are written without a request at hand.
	Rlerror  Type = 7
	Rversion Type = 101
	Rerror   Type = 107
	Rflush   Type = 109
	Rread    Type = 117
	Rreaddir Type = 41
)

// Numbers that stand for none.
const (
	NoFid  = ^uint32(0)
	NoTag  = ^uint16(0)
	NoUser = ^uint32(0) // of a Tattach that names no user by number, and other users and groups
)

// MaxNames is how many names a Twalk may have. Of more, Decode keeps one more.
const MaxNames = 16

// Msg is a message, or a request and then its reply. What a message does not
// have is left alone in writing and zero after reading; users and groups are
// NoUser.
type Msg struct {
	Type Type
	Tag  uint16

	Fid  uint32
	Fid2 uint32 // the other fid: afid, newfid, the directory of a Trename, what a Tlink links to

	Names []string // of a Twalk
	Name  string   // of a file or attribute, a version, a lock's client, a user who attaches, or an error's text
	Name2 string   // the new name, a link's target, the aname, Tcreate's extension

	Offset uint64 // of a read, a write, a lock
	Length uint64 // of a lock, an extended attribute
	Count  uint32 // of bytes; a message's largest size; an I/O unit; a lock's process; the tag that a Tflush is for
	Data   []byte // of a Twrite, Rread, Rreaddir; see Codec.Decode

	Flags        uint32 // of Tlopen, Tlcreate, Tunlinkat, Txattrcreate, Tlock, Tfsync; the mode of a Tcreate
	Mode         uint32 // of a file; of a Topen; the type of a lock; the status of an Rlock
	Major, Minor uint32
	UID, GID     uint32
	Errno        uint32

	QID  p9.QID
	QIDs []p9.QID // of an Rwalk

	Mask    p9.AttrMask    // of a Tgetattr, and what an Rgetattr has
	SetMask p9.SetAttrMask // of a Tsetattr

	// What is large is made when it is read.
	SetAttr *p9.SetAttr // of a Tsetattr
	Attr    *p9.Attr
	FSStat  *p9.FSStat
	Stat    *Stat
}
