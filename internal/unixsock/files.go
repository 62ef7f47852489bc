//go:build unix

package unixsock

import (
	"net"
	"os"
	"syscall"
)

// SendFiles writes b with the descriptors of files, and holds each file open while it does.
// The other end gets descriptors of its own with the first of the bytes. It returns how many
// bytes were written: the caller writes the rest. Where it fails with none of them written
// nothing has been sent, because a file is closed or the other end is.
func SendFiles(c *net.UnixConn, b []byte, files []*os.File) (n int, err error) {
	var fds []int
	var hold func(files []*os.File) error
	hold = func(files []*os.File) error {
		if len(files) == 0 {
			n, _, err = c.WriteMsgUnix(b, syscall.UnixRights(fds...), nil)
			return err
		}
		rc, err := files[0].SyscallConn()
		if err != nil {
			return err
		}
		var inner error
		if err := rc.Control(func(fd uintptr) {
			fds = append(fds, int(fd))
			inner = hold(files[1:])
		}); err != nil {
			return err
		}
		return inner
	}
	err = hold(files)
	return n, err
}
