package disk

import (
	"context"
	"fmt"
	"os"

	"vmfs/internal/regular"
)

// Copy copies the content of the file at from to a new file at to, which must
// not exist, and has it on the disk when it returns. Holes stay holes, and where
// the file system can share blocks it does. It returns the size and the sum. When
// it fails, the new file is gone.
func Copy(ctx context.Context, from, to string, mode os.FileMode) (size int64, sum string, err error) {
	src, err := regular.Follow(from, os.O_RDONLY, 0)
	if err != nil {
		return 0, "", err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_RDWR|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return 0, "", err
	}
	defer func() {
		if cerr := dst.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			_ = os.Remove(to) // the error says enough
		}
	}()
	return fill(ctx, dst, src)
}

// fill gives an empty file the content of another. What it has written when it fails is
// of no use.
func fill(ctx context.Context, dst, src *os.File) (size int64, sum string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("copy %s to %s: %w", src.Name(), dst.Name(), err)
		}
	}()
	fi, err := src.Stat()
	if err != nil {
		return 0, "", err
	}
	shared := cloneFile(dst, src) == nil
	s := newContentSum()
	err = eachBlock(ctx, src, fi.Size(), func(off int64, b []byte) error {
		s.block(off/blockSize, b)
		if shared {
			return nil
		}
		_, err := dst.WriteAt(b, off)
		return err
	})
	if err == nil && !shared {
		err = dst.Truncate(fi.Size())
	}
	if err == nil {
		err = dst.Sync()
	}
	return fi.Size(), s.end(fi.Size()), err
}
