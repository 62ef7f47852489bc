// Package virtq walks the split virtqueues of a guest: the device's side of
// virtio's rings, over memory that the guest can change at any moment and
// fill with anything.
//
// What it promises: every index, length and address that comes from the guest
// is read once and checked before use; no slice it hands out reaches beyond
// the guest's memory regions; every walk ends. What the guest wrote into the
// bytes of a buffer is for the caller to check.
//
// It imports the standard library alone and knows nothing of vsock.
package virtq

import (
	"errors"
	"fmt"
	"slices"
)

// ErrGuest is wrapped by every error that is the guest's fault.
var ErrGuest = errors.New("guest broke the virtqueue rules")

// A Region is a piece of guest memory that is mapped here.
type Region struct {
	// Guest is its guest-physical address, User its address in the process
	// that runs the guest, in which the rings' addresses are given.
	Guest, User uint64
	// Data is the mapping. Its start is aligned to a page.
	Data []byte
}

func (r *Region) holds(base, addr, n uint64) (off uint64, ok bool) {
	if addr < base {
		return 0, false
	}
	off = addr - base
	size := uint64(len(r.Data))
	return off, off < size && n <= size-off
}

// Memory is a guest's memory. The zero value has no regions.
type Memory struct {
	regions []Region // by Guest
}

// NewMemory returns the memory made up of regions. Neither their guest nor
// their user addresses may overlap or wrap around.
func NewMemory(regions []Region) (*Memory, error) {
	m := &Memory{regions: slices.Clone(regions)}
	for _, by := range []func(*Region) uint64{
		func(r *Region) uint64 { return r.User },
		func(r *Region) uint64 { return r.Guest }, // last: the order kept
	} {
		slices.SortFunc(m.regions, func(a, b Region) int {
			if by(&a) < by(&b) {
				return -1
			}
			return 1
		})
		var end uint64
		for i := range m.regions {
			r := &m.regions[i]
			base := by(r)
			if len(r.Data) == 0 || base+uint64(len(r.Data)) < base {
				return nil, fmt.Errorf("memory region at %#x, %#x bytes: bad size", base, len(r.Data))
			}
			if i > 0 && base < end {
				return nil, fmt.Errorf("memory region at %#x, %#x bytes: overlaps the one before", base, len(r.Data))
			}
			end = base + uint64(len(r.Data))
		}
	}
	return m, nil
}

// AppendGuest appends to dst the slices that are the n bytes at the
// guest-physical address addr: more than one where they cross regions.
func (m *Memory) AppendGuest(dst [][]byte, addr uint64, n uint32) ([][]byte, error) {
	start, left := addr, uint64(n)
	for left > 0 {
		r := m.find(addr)
		if r == nil {
			return dst, fmt.Errorf("%w: address %#x (%d bytes from %#x) is not memory", ErrGuest, addr, n, start)
		}
		off := addr - r.Guest
		part := min(left, uint64(len(r.Data))-off)
		dst = append(dst, r.Data[off:off+part:off+part])
		addr += part
		left -= part
	}
	return dst, nil
}

func (m *Memory) find(addr uint64) *Region {
	for i := range m.regions {
		r := &m.regions[i]
		if _, ok := r.holds(r.Guest, addr, 1); ok {
			return r
		}
	}
	return nil
}

// guest returns n contiguous bytes at a guest-physical address.
func (m *Memory) guest(addr, n uint64) ([]byte, error) {
	for i := range m.regions {
		r := &m.regions[i]
		if off, ok := r.holds(r.Guest, addr, n); ok {
			return r.Data[off : off+n : off+n], nil
		}
	}
	return nil, fmt.Errorf("%w: %d bytes at address %#x are not memory", ErrGuest, n, addr)
}

// user returns n contiguous bytes at an address of the process that runs the
// guest.
func (m *Memory) user(addr, n uint64) ([]byte, error) {
	for i := range m.regions {
		r := &m.regions[i]
		if off, ok := r.holds(r.User, addr, n); ok {
			return r.Data[off : off+n : off+n], nil
		}
	}
	return nil, fmt.Errorf("%w: ring at %#x, %d bytes, is not in memory", ErrGuest, addr, n)
}
