package ninep

import (
	"context"
	"errors"
	"time"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"

	"vmfs/ninep/wire"
)

// request is one T-message: its arguments, and then its results. A connection
// has one that it uses again and again; requests that block are copies.
type request struct {
	wire.Msg
	s *session

	f, f2 *fid // what Fid and Fid2 are

	got int // bytes of a Tread's reply, which are in async.buf

	async
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
	cost   int  // what its user is charged with besides

	// Guarded by session.mu.
	started bool
	flushes []uint16 // tags of the Tflushes to answer after it
	late    *time.Timer
}

// op is what a kind of request does, in the reading goroutine.
type op struct {
	// find sets the fids that the request is about; nil if run does.
	find func(r *request) error

	// run checks the request and carries it out, or starts it (then it gives errLater).
	run func(r *request) error
}

// slow is an op that calls a method of the fid's file that can block, if the file has
// that one, and else the plain one. exec does either.
func slow[Method any](find func(*request) error, exec func(context.Context, *request) error) op {
	return op{find, func(r *request) error {
		if _, ok := r.f.node.file.(Method); ok {
			return r.s.later(r, nil, exec)
		}
		return exec(atOnce, r)
	}}
}

var fsync = slow[SyncerContext](findOpen, execFsync)

var ops = [256]op{
	wire.Tauth:        {nil, func(*request) error { return errNoAuth }},
	wire.Tattach:      {nil, runAttach},
	wire.Tflush:       {nil, runFlush},
	wire.Twalk:        {findFile, runWalk},
	wire.Tread:        {nil, runRead},
	wire.Twrite:       {nil, runWrite},
	wire.Tclunk:       {nil, runClunk},
	wire.Tremove:      {nil, runRemove},
	wire.Topen:        {findFile, runOpen9P},
	wire.Tcreate:      {findDir, runCreate9P},
	wire.Tstat:        {findFile, runStat},
	wire.Twstat:       {findFile, runWstatOrWalkGetAttr},
	wire.Tstatfs:      {findFile, runStatFS},
	wire.Tlopen:       {findFile, runOpen},
	wire.Tlcreate:     {findDir, runCreate},
	wire.Tsymlink:     {findDir, runSymlink},
	wire.Tmknod:       {findDir, runMknod},
	wire.Tmkdir:       slow[MkdirerContext](findDir, execMkdir),
	wire.Trename:      {findFile, runRename},
	wire.Treadlink:    {findFile, runReadlink},
	wire.Tgetattr:     {findFile, runGetAttr},
	wire.Tsetattr:     slow[AttrSetterContext](findFile, execSetAttr),
	wire.Txattrwalk:   {findFile, runXattrWalk},
	wire.Txattrcreate: {findFile, runXattrCreate},
	wire.Treaddir:     {nil, runReaddir},
	wire.Tfsync:       fsync,
	wire.Tlock:        slow[LockerContext](findOpen, execLock),
	wire.Tgetlock:     {findOpen, runGetLock},
	wire.Tlink:        {findDir, runLink},
	wire.Trenameat:    {findDir, runRenameAt},
	wire.Tunlinkat:    slow[UnlinkerContext](findDir, execUnlinkAt),
	wire.Tucreate:     {findDir, runCreate},
	wire.Tumkdir:      slow[MkdirerContext](findDir, execMkdir),
	wire.Tumknod:      {findDir, runMknod},
	wire.Tusymlink:    {findDir, runSymlink},
}

// findFile finds a fid that stands for a file.
func findFile(r *request) (err error) {
	r.f, err = r.s.fileOf(r.Fid)
	return err
}

// findDir finds a fid of a directory for a change of what has the request's name in it.
func findDir(r *request) (err error) {
	r.f, err = r.s.dirOf(r.Fid, r.Name)
	return err
}

// findOpen finds an open file.
func findOpen(r *request) (err error) {
	if r.f, err = r.s.openFor(r.Fid, p9.OpenFlagsModeMask, nil); err == nil && r.f.xattr != nil {
		return errXattrFid
	}
	return err
}

// runWstatOrWalkGetAttr: the two have one number.
func runWstatOrWalkGetAttr(r *request) error {
	if r.s.is(wire.Linux) {
		return runWalkGetAttr(r)
	}
	return runWstat(r)
}

// What running a request can give beside an error of the request.
var (
	errLater   = errors.New("the answer comes later")
	errReplied = errors.New("the answer is written")
)

// handle decodes, runs and answers a request. errLater and errReplied mean
// that nothing is left to do.
func (s *session) handle(r *request, frame []byte) error {
	err := s.c.codec.Decode(frame, &r.Msg)
	r.s, r.f, r.f2 = s, nil, nil
	switch {
	case err == wire.ErrUnknown || ops[r.Type].run == nil:
		s.c.complain("unknown message", "type", r.Type)
		return fault(linux.EOPNOTSUPP, "unknown message")
	case s.blocked.Load() != 0 && r.Type != wire.Tflush && s.tagInUse(r.Tag):
		s.c.complain("duplicate tag", "tag", r.Tag)
		return errDupTag
	case err != nil:
		s.c.complain("malformed message", "type", r.kind())
		return fault(linux.EBADMSG, "malformed "+r.kind())
	}
	if err := s.run(r); err != nil {
		if err == errFids || err == errRequests || err == errOpenFiles {
			s.c.complain(err.Error(), "fids", s.srv.limits.Fids, "requests", s.srv.limits.Requests, "bytes", s.srv.limits.Held)
		}
		return err
	}
	s.c.reply(r)
	return nil
}

func (s *session) run(r *request) (err error) {
	defer s.recovered(r.kind(), &err)
	op := &ops[r.Type]
	if op.find != nil {
		if err := op.find(r); err != nil {
			return err
		}
	}
	return op.run(r)
}

// kind is what the request is called.
func (r *request) kind() string { return r.s.dialect.Name(r.Type) }

// appendReply writes a request's results behind b, or its error.
func (r *request) appendReply(c *wire.Codec, b []byte, err error) []byte {
	if err != nil {
		return r.s.appendError(c, b, &r.Msg, err)
	}
	start := len(b)
	r.QID = r.s.sent(r.QID)
	b = c.Append(b, r.Type+1, &r.Msg)
	if uint32(len(b)-start) > r.s.msize {
		return r.s.appendError(c, b[:start], &r.Msg, errReplySize)
	}
	return b
}

// appendError writes an error reply to a message; s may be nil before there is a
// session.
func (s *session) appendError(c *wire.Codec, b []byte, m *wire.Msg, err error) []byte {
	m.Errno = uint32(errnoOf(err))
	if s != nil && s.is(wire.Linux) {
		return c.Append(b, wire.Rlerror, m)
	}
	limit := minMsize // before there is a session, what every client has room for
	if s != nil {
		limit = int(s.msize)
	}
	m.Name = textOf(err, limit-wire.HeaderSize-2-4)
	return c.Append(b, wire.Rerror, m)
}
