//go:build unix && !linux

package unixsock

import (
	"fmt"
	"io/fs"
	"os"
)

// Share gives the socket that Bind has made another group, where group is not nil, and
// another mode, where that is not 0.
func Share(path string, group *uint32, mode fs.FileMode) error {
	if fi, err := os.Lstat(path); err != nil || fi.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%w: somebody else has put a file in the place of %s", ErrInUse, path)
	}
	if group != nil {
		if err := os.Lchown(path, -1, int(*group)); err != nil {
			return err
		}
	}
	if mode != 0 {
		return os.Chmod(path, mode)
	}
	return nil
}
