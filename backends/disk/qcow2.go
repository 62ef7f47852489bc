package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"vmfs/backends/hypervisor"
)

const (
	qcow2Magic = 'Q'<<24 | 'F'<<16 | 'I'<<8 | 0xfb
	// extensionFormat marks the header extension with the backing file's format.
	extensionFormat = 0xe2792aca
	// externalData is the incompatible feature of an image whose data are in another file.
	externalData = 1 << 2

	headerLength2 = 72  // of version 2
	headerLength3 = 104 // of version 3, at least
	// headerRoom is what is read of an image: the header, its extensions, and the name of the
	// backing file, which are in the first cluster and seldom have one of 64 KiB.
	headerRoom = 64 << 10
	// backingMost is the longest name of a backing file that the format allows.
	backingMost = 1023
)

// A qcow2Header is what the header of a qcow2 says of what else there is to the image.
type qcow2Header struct {
	size     int64
	backing  string // the file below, "" is none
	format   string // which that is said to have, "" is not said
	external bool   // the data are in another file
}

// errNoQCOW2 is of an image that is none.
var errNoQCOW2 = fmt.Errorf("its format is said to be qcow2, and it is no qcow2 image: %w", hypervisor.ErrInvalid)

// readQCOW2 reads the header of a qcow2, of which nothing is believed: not the offsets and
// lengths either.
func readQCOW2(r io.ReaderAt) (*qcow2Header, error) {
	b := make([]byte, headerRoom)
	n, err := r.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return parseQCOW2(b[:n])
}

// parseQCOW2 reads the beginning of a qcow2.
func parseQCOW2(b []byte) (*qcow2Header, error) {
	if len(b) < headerLength2 || binary.BigEndian.Uint32(b) != qcow2Magic {
		return nil, errNoQCOW2
	}
	wrong := func(format string, args ...any) (*qcow2Header, error) {
		return nil, fmt.Errorf("its header is damaged: %s: %w", fmt.Sprintf(format, args...), hypervisor.ErrInvalid)
	}
	version, clusterBits := binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[20:])
	h := &qcow2Header{size: int64(binary.BigEndian.Uint64(b[24:]))}
	switch {
	case version != 2 && version != 3:
		return nil, fmt.Errorf("it is a qcow2 of version %d, and QEMU reads 2 and 3: %w", version, hypervisor.ErrInvalid)
	case clusterBits < 9 || clusterBits > 21:
		return wrong("its clusters have 2^%d bytes", clusterBits)
	case h.size < 0:
		return wrong("it says %d bytes", uint64(h.size))
	}
	length := uint64(headerLength2)
	if version == 3 {
		if len(b) < headerLength3 {
			return wrong("it is cut short")
		}
		h.external = binary.BigEndian.Uint64(b[72:])&externalData != 0
		if length = uint64(binary.BigEndian.Uint32(b[100:])); length < headerLength3 {
			return wrong("it says that it has %d bytes", length)
		}
	}
	end := min(uint64(len(b)), 1<<clusterBits)
	at, n := binary.BigEndian.Uint64(b[8:]), uint64(binary.BigEndian.Uint32(b[16:]))
	switch {
	case at == 0 || n == 0:
		return h, nil // with nothing below, its format does not matter
	case n > backingMost || at < length || at > end || n > end-at:
		return wrong("the name of its backing file would be %d bytes at %d", n, at)
	}
	h.backing = string(b[at : at+n])
	if strings.ContainsFunc(h.backing, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return wrong("its backing file is called %q", h.backing)
	}
	for rest := b[length:at]; len(rest) >= 8; {
		kind, n := binary.BigEndian.Uint32(rest), uint64(binary.BigEndian.Uint32(rest[4:]))
		rest = rest[8:]
		switch {
		case kind == 0:
			return h, nil
		case n > uint64(len(rest)):
			return wrong("an extension of %d bytes does not fit into it", n)
		case kind == extensionFormat:
			h.format = string(rest[:n])
		}
		rest = rest[min((n+7)&^7, uint64(len(rest))):]
	}
	return h, nil
}
