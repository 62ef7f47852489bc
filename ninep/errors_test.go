package ninep

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/hugelgupf/p9/linux"
	"github.com/stretchr/testify/assert"
)

// TestCutText: a long error is cut (intro(5)), and what is left is UTF-8.
func TestCutText(t *testing.T) {
	assert.Equal(t, "short", cutText("short", 5))
	assert.Equal(t, "", cutText("short", 0))
	for room := range 40 {
		got := cutText("x"+strings.Repeat("é€", 8), room)
		assert.True(t, utf8.ValidString(got), "%d: %q", room, got)
		assert.LessOrEqual(t, len(got), room)
		assert.Greater(t, len(got), room-3)
	}
	assert.Len(t, cutText(strings.Repeat("x", 1<<17), 1<<20), 1<<16-1, "no string of 9P is longer")
}

// TestTexts: what clients of 9P2000 are told ends in words that they make an errno of.
func TestTexts(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{linux.EBUSY, "file is busy"},
		{fmt.Errorf("web: start: %w", linux.EBUSY), "web: start: file is busy"},
		{&treeError{"web is created: start it first", linux.EBUSY}, "web is created: start it first: file is busy"},
		{&treeError{"open state: permission denied", linux.EACCES}, "open state: permission denied"},
		{&treeError{"unknown control message: \"frob 12\"", linux.EINVAL}, "unknown control message: \"frob 12\": invalid argument"},
		{linux.EINVAL, "Invalid argument"},
		{fmt.Errorf("dial: %w", linux.ECONNREFUSED), "dial: connection refused"},
		{errors.New("no idea"), "no idea: i/o error"},
		{&panicError{"boom"}, "panic: boom: i/o error"},
		{errUnknownFid, "unknown fid"},
		{errNoAuth, "authentication not required"},
		{&treeError{"walk to \x1b[2J\x00\u009b\xff\nx", linux.ENOENT}, `walk to \x1b[2J\x00\u009b\xff x: file does not exist`},
	} {
		assert.Equal(t, c.want, textOf(c.err, 1000))
	}
	long := textOf(&treeError{strings.Repeat("é", 300), linux.EBUSY}, 201)
	assert.LessOrEqual(t, len(long), 201)
	assert.Greater(t, len(long), 198)
	assert.True(t, strings.HasSuffix(long, "é: file is busy"), "the end is kept: %s", long)

	// What plan9port's 9pfuse looks for in a text, in this order.
	ninepfuse := []struct {
		part  string
		errno linux.Errno
	}{
		{"permitted", linux.EPERM}, {"permission", linux.EACCES}, {"exists", linux.EEXIST}, {"exist", linux.ENOENT},
		{"i/o", linux.EIO}, {"too long", linux.E2BIG}, {"interrupt", linux.EINTR}, {"bad file", linux.EBADF},
		{"is a directory", linux.EISDIR}, {"directory", linux.ENOTDIR}, {"argument", linux.EINVAL}, {"pipe", linux.EPIPE},
		{"in use", linux.EBUSY}, {"busy", linux.EBUSY}, {"timed out", linux.ETIMEDOUT}, {"read only", linux.EROFS},
	}
	for _, errno := range []linux.Errno{linux.EPERM, linux.EACCES, linux.EEXIST, linux.ENOENT, linux.EIO, linux.E2BIG, linux.EINTR,
		linux.EBADF, linux.EISDIR, linux.ENOTDIR, linux.EINVAL, linux.EPIPE, linux.EBUSY, linux.ETIMEDOUT, linux.EROFS} {
		text := strings.ToLower(textOf(&treeError{"web: it cannot be", errno}, 1000))
		i := slices.IndexFunc(ninepfuse, func(row struct {
			part  string
			errno linux.Errno
		}) bool {
			return strings.Contains(text, row.part)
		})
		if assert.GreaterOrEqual(t, i, 0, text) {
			assert.Equal(t, errno, ninepfuse[i].errno, text)
		}
	}
}

// treeError is an error of a tree with a text of its own.
type treeError struct {
	text  string
	errno linux.Errno
}

func (e *treeError) Error() string { return e.text }
func (e *treeError) Unwrap() error { return e.errno }
