package durable

import (
	"errors"
	"os"
	"syscall"
)

// holeAlign is what a hole is rounded to.
const holeAlign = 4096

// PunchHead gives the blocks of all but the last keep bytes of a file back to the file
// system. No byte moves, so that others may be writing and reading the file; what
// was in the hole reads as zeros. It returns where what is left begins. The error is an
// errors.ErrUnsupported where the file system has no holes.
func PunchHead(f *os.File, size, keep int64) (head int64, err error) {
	if head = (size - keep) / holeAlign * holeAlign; head <= 0 {
		return 0, nil
	}
	return head, punchHole(f, 0, head)
}

// CutHead cuts a file, that has more than most bytes on its disk, to its last keep
// bytes: by a hole, or, where the file system has none, as KeepTail does.
func CutHead(path string, most, keep int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return IgnoreMissing(err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	has := fi.Size()
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		has = min(has, st.Blocks*512)
	}
	if has <= most {
		return nil
	}
	if _, err = PunchHead(f, fi.Size(), keep); errors.Is(err, errors.ErrUnsupported) {
		_, err = KeepTail(path, most, keep)
	}
	return err
}
