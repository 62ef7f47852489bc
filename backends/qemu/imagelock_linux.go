package qemu

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"vmfs/backends/disk"
	"vmfs/backends/hypervisor"
	"vmfs/internal/wait"
)

// imageWait is how long an image may be locked by a QEMU that has just ended: the
// kernel closes some files a moment after that.
const imageWait = time.Second

// awaitImages waits a moment for images that another QEMU has locked. If one still
// is then, the new QEMU says so best.
func awaitImages(ctx context.Context, disks []hypervisor.DiskConfig) error {
	ctx, cancel := context.WithTimeout(ctx, imageWait)
	defer cancel()
	for _, d := range disks {
		if d.Readonly {
			continue
		}
		f, _, err := disk.Open(d.Path, os.O_RDONLY)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, hypervisor.ErrInvalid) {
			continue // it is made, or refused, later
		}
		if err != nil {
			return err
		}
		_ = wait.Until(ctx, imageWait/50, func() (bool, error) { return !locked(f), nil }) // for so long
		_ = f.Close()
	}
	return nil
}

// locked tells whether somebody has a lock where QEMU's are: a byte for each thing
// that it does with the image or wants others not to do, from 100 and from 200 on.
func locked(f *os.File) bool {
	l := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: 100, Len: 200}
	err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &l)
	return err == nil && l.Type != unix.F_UNLCK
}
