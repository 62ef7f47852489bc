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

	"vmfs/internal/printable"
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
	errSmallCount  = fault(linux.EINVAL, "count is too small for a directory entry")
	errFids        = fault(linux.ENFILE, "too many fids: on this connection, or of this user")
	errOpenFiles   = fault(linux.ENFILE, "too many files are open that the server holds something for: of this user, or in all")
	errRequests    = fault(linux.ENOBUFS, "too many requests wait on this connection")
	errNoAuth      = fault(linux.ENOENT, "authentication not required")
	errNoVersion   = fault(linux.EPROTO, "no version was negotiated: send Tversion first")
	errReplySize   = fault(linux.EMSGSIZE, "reply does not fit the message size")
	errEndLoop     = fault(linux.EIO, "reads at the end of the file do not stop: i/o error")
	errRemoveRoot  = fault(linux.EPERM, "cannot remove the root: operation not permitted")
	errRenameRoot  = fault(linux.EPERM, "cannot rename the root: operation not permitted")
	errCycle       = fault(linux.EINVAL, "cannot move a directory into itself")
	errXattrFid    = fault(linux.EBADF, "fid stands for an extended attribute, not for a file")
	errNoXattr     = fault(linux.EOPNOTSUPP, "no extended attributes here: operation not supported")
	errNoGetLock   = fault(linux.EOPNOTSUPP, "locks cannot be queried here: operation not supported")
	errMsize       = fault(linux.EINVAL, "message size too small: want 256 bytes or more")
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

// clientWords are what clients of 9P2000 make an errno of: Linux by the whole text and
// 9pfuse of plan9port by a part of it, as far as they know one. Where it is not Plan 9's
// own, the capital is Linux's.
var clientWords = map[linux.Errno]string{
	linux.E2BIG:        "Argument list too long",
	linux.EACCES:       "permission denied",
	linux.EADDRINUSE:   "Address already in use",
	linux.EBADF:        "Bad file descriptor",
	linux.EBUSY:        "file is busy",
	linux.ECONNREFUSED: "Connection refused",
	linux.ECONNRESET:   "Connection reset by peer",
	linux.EDQUOT:       "Disk quota exceeded",
	linux.EEXIST:       "file already exists",
	linux.EFBIG:        "File too large",
	linux.EHOSTUNREACH: "No route to host",
	linux.EINTR:        "interrupted",
	linux.EINVAL:       "Invalid argument",
	linux.EIO:          "i/o error",
	linux.EISDIR:       "Is a directory",
	linux.ELOOP:        "Too many levels of symbolic links",
	linux.ENOENT:       "file does not exist",
	linux.ENOSPC:       "No space left on device",
	linux.ENOTCONN:     "Transport endpoint is not connected",
	linux.ENOTDIR:      "not a directory",
	linux.ENOTEMPTY:    "directory is not empty",
	linux.ENXIO:        "No such device or address",
	linux.EOPNOTSUPP:   "Operation not supported",
	linux.EPERM:        "Operation not permitted",
	linux.EPIPE:        "Broken pipe",
	linux.EROFS:        "read only file system",
	linux.ETIMEDOUT:    "Connection timed out",
}

// textOf finds what a client that understands words is told, in so many bytes: the
// error's text, printable and in one line, and at its end the words for its errno. Faults in
// the protocol's use have their own words.
func textOf(err error, room int) string {
	text := printable.Line(err.Error())
	errno := errnoOf(err)
	words := clientWords[errno]
	if _, ok := err.(*protoError); ok || words == "" {
		return cutText(text, room)
	}
	text = strings.TrimSuffix(text, errno.Error())
	if text == "" {
		return cutText(words, room)
	}
	words = strings.ToLower(words[:1]) + words[1:]
	text = strings.TrimSuffix(strings.TrimSuffix(text, words), ": ")
	return cutText(text, room-len(": ")-len(words)) + ": " + words
}

// cutText gives as much of a text as has room, in whole characters.
func cutText(text string, room int) string {
	room = min(max(room, 0), 1<<16-1)
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

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }
func (e *panicError) Unwrap() error { return linux.EIO }
