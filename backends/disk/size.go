package disk

import (
	"io"
	"io/fs"
	"os"

	"vmfs/backends/hypervisor"
)

// Size returns how many bytes the disk in an image has for a guest: of a raw one those
// of the file or block device, of a qcow2 what its header says. It may be in use.
func Size(image string, format hypervisor.DiskFormat) (int64, error) {
	f, _, err := Open(image, os.O_RDONLY)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if format == hypervisor.DiskQCOW2 {
		h, err := readQCOW2(f)
		if err != nil {
			return 0, err
		}
		return h.size, nil
	}
	return f.Seek(0, io.SeekEnd)
}

func isBlockDevice(m fs.FileMode) bool { return m&fs.ModeDevice != 0 && m&fs.ModeCharDevice == 0 }
