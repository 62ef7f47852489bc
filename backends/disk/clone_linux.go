package disk

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// cloneFile makes dst share all blocks of src, where the file system can.
func cloneFile(dst, src *os.File) error {
	from, err := src.SyscallConn()
	if err != nil {
		return err
	}
	to, err := dst.SyscallConn()
	if err != nil {
		return err
	}
	var outer, inner, cloned error
	outer = to.Control(func(d uintptr) {
		inner = from.Control(func(s uintptr) {
			cloned = unix.IoctlFileClone(int(d), int(s))
		})
	})
	return errors.Join(outer, inner, cloned)
}
