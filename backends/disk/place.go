package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"vmfs/backends/hypervisor"
	"vmfs/internal/durable"
	"vmfs/internal/regular"
)

// A place is where an image is or is to be: a name in a directory that is open. Users may
// be able to write that directory, and can give any of its names to another file at any
// moment. So nothing is done there by a path: what is made is changed by its descriptor,
// names are moved within the directory that is open, and no link in the place of a name
// is followed.
type place struct {
	dir  *os.Root
	name string
}

// placeOf opens the directory of an image. Links that lead to an image stay as they are:
// the place is where it really is. The caller closes the place.
func placeOf(image string) (place, error) {
	real, err := filepath.EvalSymlinks(image)
	if errors.Is(err, fs.ErrNotExist) {
		real, err = image, nil // it is not there, or not yet
	}
	if err != nil {
		return place{}, err
	}
	dir, err := os.OpenRoot(filepath.Dir(real))
	if err != nil {
		return place{}, err
	}
	return place{dir, filepath.Base(real)}, nil
}

func (p place) close() { _ = p.dir.Close() }

// path is what the place is called, for messages and the journal.
func (p place) path() string { return filepath.Join(p.dir.Name(), p.name) }

// beside names a file next to the image.
func (p place) beside(what string, i int) string { return "." + p.name + "." + what + strconv.Itoa(i) }

// remove removes a name of the directory, if it is there.
func (p place) remove(name string) error { return durable.IgnoreMissing(p.dir.Remove(name)) }

// create makes a file beside the image, which nobody else can open yet, in the place of
// what a killed server has left.
func (p place) create(name string) (*os.File, error) {
	if err := p.remove(name); err != nil {
		return nil, err
	}
	return p.dir.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}

// is returns nil if a name of the directory is that of the file.
func (p place) is(name string, f *os.File) error {
	mine, err := f.Stat()
	if err != nil {
		return err
	}
	there, err := p.dir.Lstat(name)
	if err == nil && !os.SameFile(mine, there) {
		err = fmt.Errorf("somebody else has put another file in the place of %s: %w", filepath.Join(p.dir.Name(), name), hypervisor.ErrBusy)
	}
	return err
}

// likeness gives a file that was made here the owner and the mode of the image, if that is
// there.
func (p place) likeness(f *os.File) (there bool, err error) {
	fi, err := p.dir.Lstat(p.name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case !fi.Mode().IsRegular():
		return true, fmt.Errorf("%s: %w", p.path(), regular.ErrNot)
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && (int(st.Uid) != os.Geteuid() || int(st.Gid) != os.Getegid()) {
		if err := f.Chown(int(st.Uid), int(st.Gid)); err != nil {
			return true, err
		}
	}
	return true, f.Chmod(fi.Mode().Perm())
}

// Open opens an image, which is a regular file or a block device, over links. What is
// neither is an ErrInvalid, and not waited for.
func Open(image string, flag int) (*os.File, fs.FileMode, error) {
	f, err := os.OpenFile(image, flag|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if errors.Is(err, syscall.ENXIO) || errors.Is(err, syscall.EISDIR) { // a FIFO that nobody reads, or a socket
		return nil, 0, errNoImage
	}
	if err != nil {
		return nil, 0, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() && !isBlockDevice(fi.Mode()) {
		err = errNoImage
	}
	if err != nil {
		_ = f.Close() // nothing was written
		return nil, 0, err
	}
	return f, fi.Mode(), nil
}

var errNoImage = fmt.Errorf("it is neither a file nor a block device: %w", hypervisor.ErrInvalid)

// byFile is a name under which a program that inherits f as its first file finds that very
// file, whatever has its path by then. Elsewhere than on Linux it is the path.
func byFile(f *os.File) string {
	if runtime.GOOS == "linux" {
		return "/proc/self/fd/3"
	}
	return f.Name()
}
