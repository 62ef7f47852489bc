package disk

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

	"vmfs/internal/regular"
)

// blockSize is the unit in which files are copied and summed.
const blockSize = 64 << 10

var zeroBlock [blockSize]byte

// A contentSum is a checksum of a file's content that costs nothing for holes and
// is the same with and without them: SHA-256 over the number and the content of
// every block that is not all zeros, and the file's size.
type contentSum struct{ h hash.Hash }

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

// sum reads a file and returns its size and content sum.
func sum(ctx context.Context, path string) (size int64, sum string, err error) {
	f, err := regular.Open(path)
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
