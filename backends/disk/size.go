package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"vmfs/backends/hypervisor"
)

// Size returns how many bytes the disk in an image has for a guest: of a raw one those
// of the file or block device, of a qcow2 what its header says. It may be in use.
func Size(image string, format hypervisor.DiskFormat) (int64, error) {
	fi, err := os.Stat(image)
	if err != nil {
		return 0, err
	}
	if m := fi.Mode(); !m.IsRegular() && !isBlockDevice(m) {
		return 0, fmt.Errorf("it is neither a file nor a block device: %w", hypervisor.ErrInvalid)
	}
	f, err := os.Open(image)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if format == hypervisor.DiskQCOW2 {
		return qcow2Size(f)
	}
	return f.Seek(0, io.SeekEnd)
}

func isBlockDevice(m fs.FileMode) bool { return m&fs.ModeDevice != 0 && m&fs.ModeCharDevice == 0 }

// qcow2Size reads the part of a qcow2's header in which its size is; that is in the
// same place in all versions.
func qcow2Size(f io.Reader) (int64, error) {
	var head struct {
		Magic, Version uint32
		_              [16]byte // of the backing file, and of clusters
		Size           uint64
	}
	err := binary.Read(f, binary.BigEndian, &head)
	switch {
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || err == nil && head.Magic != qcow2Magic:
		return 0, fmt.Errorf("its format is said to be qcow2, and it is no qcow2 image: %w", hypervisor.ErrInvalid)
	case err != nil:
		return 0, err
	case int64(head.Size) < 0:
		return 0, fmt.Errorf("its header says %d bytes: %w", head.Size, hypervisor.ErrInvalid)
	}
	return int64(head.Size), nil
}

const qcow2Magic = 'Q'<<24 | 'F'<<16 | 'I'<<8 | 0xfb
