package ninep

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

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

func proto(errno linux.Errno, text string) error { return &protoError{errno, text} }

var (
	errUnknownFid  = proto(linux.EBADF, "unknown fid")
	errDupFid      = proto(linux.EINVAL, "duplicate fid")
	errDupTag      = proto(linux.EINVAL, "duplicate tag")
	errNotOpen     = proto(linux.EBADF, "fid is not open")
	errOpen        = proto(linux.EINVAL, "fid is already open")
	errOpening     = proto(linux.EINVAL, "fid is being opened")
	errNotReadable = proto(linux.EBADF, "fid is not open for reading")
	errNotWritable = proto(linux.EBADF, "fid is not open for writing")
	errWalkOpen    = proto(linux.EINVAL, "cannot walk a fid that is open")
	errBusyFid     = proto(linux.EINVAL, "fid has requests under way")
	errWalkNames   = proto(linux.EINVAL, "walk of more than 16 names")
	errBadName     = proto(linux.EINVAL, "bad file name")
	errOffset      = proto(linux.EINVAL, "bad offset")
	errDirOffset   = proto(linux.EINVAL, "bad offset in directory read")
	errFids        = proto(linux.ENFILE, "too many fids on this connection")
	errRequests    = proto(linux.ENOBUFS, "too many requests outstanding on this connection")
	errNoAuth      = proto(linux.ENOENT, "authentication not required")
	errNoVersion   = proto(linux.EPROTO, "no version was negotiated: send Tversion first")
	errReplySize   = proto(linux.EMSGSIZE, "reply does not fit the message size")
	errRemoveRoot  = proto(linux.EPERM, "cannot remove the root")
	errRenameRoot  = proto(linux.EPERM, "cannot rename the root")
	errXattrFid    = proto(linux.EBADF, "fid is of an extended attribute")
	errIsDir       = proto(linux.EISDIR, "is a directory")
	errNotDir      = proto(linux.ENOTDIR, "not a directory")
	errGone        = proto(linux.ENOENT, "file does not exist")
	errNoXattr     = proto(linux.EOPNOTSUPP, "no extended attributes here")
	errNoGetLock   = proto(linux.EOPNOTSUPP, "locks cannot be asked for here")
	errMsize       = proto(linux.EINVAL, "version: message size too small")
)

// Why the context of a request ended.
var (
	errFlushed  = proto(linux.EINTR, "interrupted")
	errClunked  = proto(linux.EINTR, "fid was clunked")
	errHangup   = proto(linux.EINTR, "client hung up")
	errReset    = proto(linux.EINTR, "a new session began")
	errStopping = proto(linux.EINTR, "server is shutting down")
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

// panicError is what a request gets whose file panicked.
type panicError struct{ value any }

func (e *panicError) Error() string { return fmt.Sprintf("i/o error: panic: %v", e.value) }
func (e *panicError) Unwrap() error { return linux.EIO }
