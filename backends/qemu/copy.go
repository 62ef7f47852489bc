package qemu

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
)

// blockSize is the unit in which files are copied and summed.
const blockSize = 64 << 10

var zeroBlock [blockSize]byte

// A contentSum is a checksum of a file's content that costs nothing for holes and
// is the same with and without them: SHA-256 over the number and the content of
// every block that is not all zeros, and the file's size.
type contentSum struct {
	h hash.Hash
}

func newContentSum() contentSum { return contentSum{sha256.New()} }

func (s contentSum) block(n int64, b []byte) {
	var head [8]byte
	binary.BigEndian.PutUint64(head[:], uint64(n))
	s.h.Write(head[:])
	s.h.Write(b)
}

func (s contentSum) end(size int64) string {
	s.block(size, nil)
	return hex.EncodeToString(s.h.Sum(nil))
}

// eachBlock calls f with every block of a file that is not all zeros.
func eachBlock(ctx context.Context, file *os.File, size int64, f func(off int64, b []byte) error) error {
	buf := make([]byte, blockSize)
	for off := int64(0); off < size; off += blockSize {
		if err := ctx.Err(); err != nil {
			return err
		}
		data, err := nextData(file, off)
		if err != nil {
			return err
		}
		if data >= size {
			return nil
		}
		off = max(off, data/blockSize*blockSize)
		b := buf[:min(blockSize, size-off)]
		if _, err := file.ReadAt(b, off); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF // it was longer a moment ago
			}
			return err
		}
		if bytes.Equal(b, zeroBlock[:len(b)]) {
			continue
		}
		if err := f(off, b); err != nil {
			return err
		}
	}
	return nil
}

// sumFile returns a file's size and content sum.
func sumFile(ctx context.Context, path string) (size int64, sum string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return 0, "", err
	}
	s := newContentSum()
	err = eachBlock(ctx, f, fi.Size(), func(off int64, b []byte) error {
		s.block(off/blockSize, b)
		return nil
	})
	if err != nil {
		return 0, "", fmt.Errorf("%s: %w", path, err)
	}
	return fi.Size(), s.end(fi.Size()), nil
}

// copyFile copies the content of the file at from to a new file at to, which must
// not exist, and has it on the disk when it returns. Holes stay holes, and where
// the file system can share blocks it does. It returns the size and the sum. When
// it fails, the new file is gone.
func copyFile(ctx context.Context, from, to string, mode os.FileMode) (size int64, sum string, err error) {
	src, err := os.Open(from)
	if err != nil {
		return 0, "", err
	}
	defer src.Close()
	fi, err := src.Stat()
	if err != nil {
		return 0, "", err
	}
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
			err = fmt.Errorf("copy %s to %s: %w", from, to, err)
		}
	}()
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

// syncDir has a directory's entries on the disk when it returns.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
