package client

import (
	"io/fs"
	"testing"

	"github.com/hugelgupf/p9/linux"
	"github.com/stretchr/testify/assert"
)

func TestFailedCommand(t *testing.T) {
	for _, c := range []struct{ text, sent, want string }{
		{"2026-11-23T10:12:22.266Z pause: machine: pause web: start it first", "ctl pause\n", "machine: pause web: start it first"},
		{"2026-11-23T10:12:22.266Z frob: 12: web: unknown", "ctl start\nfrob: 12\n", "web: unknown"},
		{"2026-11-23T10:12:22Z set: line 2: no key", "config a=1\nb=2\n", "line 2: no key"},
		{"2026-11-23T10:12:22Z memory lots: memory web: no size", "memory lots\n", "memory web: no size"},
		{"2026-11-23T10:12:22Z memory: memory web: no size", "memory lots", "memory web: no size"},
		{"2026-11-23T10:12:22Z stop: somebody else's", "ctl start\n", ""},
		{"delete: machine: delete web: stop it first", "delete", "machine: delete web: stop it first"},
		{"words", "", ""},
	} {
		got, ok := failedCommand(c.text, c.sent)
		assert.Equal(t, c.want, got)
		assert.Equal(t, c.want != "", ok, c.text)
	}
}

func TestError(t *testing.T) {
	e := &Error{Errno: linux.ENOENT}
	assert.ErrorIs(t, e, fs.ErrNotExist)
	assert.ErrorIs(t, e, linux.ENOENT)
	assert.NotErrorIs(t, e, fs.ErrExist)
	assert.ErrorIs(t, &Error{Errno: linux.EEXIST}, fs.ErrExist)
	assert.ErrorIs(t, &Error{Errno: linux.EACCES}, fs.ErrPermission)
	assert.ErrorIs(t, &Error{Errno: linux.EPERM}, fs.ErrPermission)
	assert.Equal(t, "the VM's own words", (&Error{Errno: linux.EINVAL, Text: "the VM's own words"}).Error())
	assert.Contains(t, (&Error{Errno: linux.EINTR}).Error(), "somebody cancelled")
}

func TestGuestPort(t *testing.T) {
	for name, want := range map[string]string{
		"web/vsock/1024": "vsock 1024", "/web/vsock/listen/9": "vsock listen 9", "web/vsock/4294967294": "vsock 4294967294",
		"web/vsock/clone": "", "web/vsock/007": "", "web/vsock/0": "", "web/vsock/4294967295": "", "web/vsock/listen": "",
		"web/vsock/c0/data": "", "web/ctl": "", "": "",
	} {
		as, ok := streamCommand(name)
		assert.Equal(t, want != "", ok, name)
		if ok {
			assert.Equal(t, want, as, name)
		}
	}
}
