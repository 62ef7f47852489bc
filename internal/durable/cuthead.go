package durable

import (
	"errors"
	"os"
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

// CutHead cuts a file, which is open for writing, that has more than most bytes after head, where what is left of it
// begins, to its last keep bytes: by a hole, or, where the file system has none, as
// KeepTail does. It returns where what is left begins now. How many blocks a file has is
// not asked: some file systems say it seconds later.
func CutHead(f *os.File, head, most, keep int64) (int64, error) {
	fi, err := f.Stat()
	if err != nil {
		return head, err
	}
	if fi.Size() < head { // somebody else has made it shorter
		head = 0
	}
	if fi.Size()-head <= most {
		return head, nil
	}
	cut, err := PunchHead(f, fi.Size(), keep)
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		_, err = KeepTail(f.Name(), most, keep)
		return 0, err
	case err != nil:
		return head, err
	}
	return cut, nil
}
