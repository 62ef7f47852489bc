package ninep

import (
	"context"
	"errors"
	"time"

	"github.com/hugelgupf/p9/linux"

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

	// Guarded by session.mu.
	next    *request // in the lane
	started bool
	flushes []uint16 // tags of the Tflushes to answer after it
	late    *time.Timer
}

// ops has what each request does: it checks the request and carries it out, or
// starts it (then it gives errLater), in the reading goroutine.
var ops = [256]func(r *request) error{
	wire.Tauth:        runAuth,
	wire.Tattach:      runAttach,
	wire.Tflush:       runFlush,
	wire.Twalk:        runWalk,
	wire.Tread:        runRead,
	wire.Twrite:       runWrite,
	wire.Tclunk:       runClunk,
	wire.Tremove:      runRemove,
	wire.Topen:        runOpen9P,
	wire.Tcreate:      runCreate9P,
	wire.Tstat:        runStat,
	wire.Twstat:       runWstatOrWalkGetAttr,
	wire.Tstatfs:      runStatFS,
	wire.Tlopen:       runOpen,
	wire.Tlcreate:     runCreate,
	wire.Tsymlink:     runSymlink,
	wire.Tmknod:       runMknod,
	wire.Tmkdir:       runMkdir,
	wire.Trename:      runRename,
	wire.Treadlink:    runReadlink,
	wire.Tgetattr:     runGetAttr,
	wire.Tsetattr:     runSetAttr,
	wire.Txattrwalk:   runXattrWalk,
	wire.Txattrcreate: runXattrCreate,
	wire.Treaddir:     runReaddir,
	wire.Tfsync:       runFsync,
	wire.Tlock:        runLock,
	wire.Tgetlock:     runGetLock,
	wire.Tlink:        runLink,
	wire.Trenameat:    runRenameAt,
	wire.Tunlinkat:    runUnlinkAt,
	wire.Tucreate:     runCreate,
	wire.Tumkdir:      runMkdir,
	wire.Tumknod:      runMknod,
	wire.Tusymlink:    runSymlink,
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
	case err == wire.ErrUnknown || ops[r.Type] == nil:
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
		if err == errFids || err == errRequests {
			s.c.complain(err.Error(), "fids", s.srv.limits.Fids, "requests", s.srv.limits.Requests, "bytes", s.srv.limits.Held)
		}
		return err
	}
	s.c.reply(r)
	return nil
}

func (s *session) run(r *request) (err error) {
	defer s.recovered(r.kind(), &err)
	return ops[r.Type](r)
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
