package ninep

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/hugelgupf/p9/linux"
)

// protoError is an error of the protocol's use, with the words for dialects
// that have words.
type protoError struct {
	errno linux.Errno
	text  string
}

func (e *protoError) Error() string { return e.text }
func (e *protoError) Unwrap() error { return e.errno }

func fault(errno linux.Errno, text string) error { return &protoError{errno, text} }

var (
	errUnknownFid  = fault(linux.EBADF, "unknown fid")
	errDupFid      = fault(linux.EINVAL, "duplicate fid")
	errDupTag      = fault(linux.EINVAL, "duplicate tag")
	errNotOpen     = fault(linux.EBADF, "fid is not open")
	errOpen        = fault(linux.EINVAL, "fid is already open")
	errOpening     = fault(linux.EINVAL, "fid is being opened")
	errNotReadable = fault(linux.EBADF, "fid is not open for reading")
	errNotWritable = fault(linux.EBADF, "fid is not open for writing")
	errWalkOpen    = fault(linux.EINVAL, "cannot walk a fid that is open")
	errBusyFid     = fault(linux.EINVAL, "fid has requests under way")
	errWalkNames   = fault(linux.EINVAL, "walk of more than 16 names")
	errBadName     = fault(linux.EINVAL, "bad file name")
	errOffset      = fault(linux.EINVAL, "bad offset")
	errDirOffset   = fault(linux.EINVAL, "bad offset in directory read")
	errFids        = fault(linux.ENFILE, "too many fids on this connection, or of this user")
	errRequests    = fault(linux.ENOBUFS, "too many requests outstanding on this connection")
	errNoAuth      = fault(linux.ENOENT, "authentication not required")
	errNoVersion   = fault(linux.EPROTO, "no version was negotiated: send Tversion first")
	errReplySize   = fault(linux.EMSGSIZE, "reply does not fit the message size")
	errEndLoop     = fault(linux.EIO, "i/o error: the end of the file is read again and again")
	errRemoveRoot  = fault(linux.EPERM, "cannot remove the root")
	errRenameRoot  = fault(linux.EPERM, "cannot rename the root")
	errCycle       = fault(linux.EINVAL, "cannot move a directory into itself")
	errXattrFid    = fault(linux.EBADF, "fid is of an extended attribute")
	errIsDir       = fault(linux.EISDIR, "is a directory")
	errNotDir      = fault(linux.ENOTDIR, "not a directory")
	errGone        = fault(linux.ENOENT, "file does not exist")
	errNoXattr     = fault(linux.EOPNOTSUPP, "no extended attributes here")
	errNoGetLock   = fault(linux.EOPNOTSUPP, "locks cannot be asked for here")
	errMsize       = fault(linux.EINVAL, "version: message size too small")
)

// Why the context of a request ended.
var (
	errFlushed  = fault(linux.EINTR, "interrupted")
	errClunked  = fault(linux.EINTR, "fid was clunked")
	errHangup   = fault(linux.EINTR, "client hung up")
	errReset    = fault(linux.EINTR, "a new session began")
	errStopping = fault(linux.EINTR, "server is shutting down")
)

// errnoOf finds what a client that understands numbers is told.
func errnoOf(err error) linux.Errno {
	errno, ok := err.(linux.Errno)
	if !ok && !errors.As(err, &errno) {
		switch {
		case errors.Is(err, context.Canceled):
			errno = linux.EINTR
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
			errno = linux.ETIMEDOUT
		case errors.Is(err, io.EOF):
			errno = linux.EIO
		default:
			errno = linux.ExtractErrno(err)
		}
	}
	switch errno {
	case linux.EAGAIN:
		return linux.EBUSY // Linux 6.12 would try again for ever
	case 0:
		return linux.EIO
	}
	return errno
}

// plan9Words are what 9P2000 clients, Linux among them, know an errno by.
var plan9Words = map[linux.Errno]string{
	linux.ENOENT:    "file does not exist",
	linux.EACCES:    "permission denied",
	linux.EEXIST:    "file already exists",
	linux.ENOTDIR:   "not a directory",
	linux.EISDIR:    "file is a directory",
	linux.EIO:       "i/o error",
	linux.ENOTEMPTY: "directory is not empty",
	linux.EINTR:     "interrupted",
	linux.EROFS:     "read only file system",
	linux.EPERM:     "operation not permitted",
}

// textOf finds what a client that understands words is told. Where an errno's
// own words end the text, those of Plan 9 take their place.
func textOf(err error) string {
	errno := errnoOf(err)
	text := err.Error()
	words, ok := plan9Words[errno]
	if !ok {
		return text
	}
	if head, ok := strings.CutSuffix(text, errno.Error()); ok {
		return head + words
	}
	return text
}

// cutText gives as much of a text as has room, in whole characters.
func cutText(text string, room int) string {
	room = min(room, 1<<16-1)
	if len(text) <= room {
		return text
	}
	for room > 0 && !utf8.RuneStart(text[room]) {
		room--
	}
	return text[:room]
}

// panicError is what a request gets whose file panicked.
type panicError struct{ value any }

func (e *panicError) Error() string { return fmt.Sprintf("i/o error: panic: %v", e.value) }
func (e *panicError) Unwrap() error { return linux.EIO }
