package vhostuser

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"vmfs/vsock/vhostuser/internal/virtq"
	"vmfs/vsock/vhostuser/internal/vumsg"
)

// guestMemory is the guest's memory as QEMU handed it over.
type guestMemory struct {
	*virtq.Memory
	maps [][]byte // what to unmap
}

// mapGuest maps the regions of a memory table. It leaves the descriptors to
// the caller.
func mapGuest(regions []vumsg.Region, fds []int) (_ *guestMemory, err error) {
	g := &guestMemory{}
	defer func() {
		if err != nil {
			g.unmap()
		}
	}()
	var rs []virtq.Region
	for i, r := range regions {
		m, err := g.mapRegion(r, fds[i])
		if err != nil {
			return nil, fmt.Errorf("memory region %d (%#x bytes at guest address %#x): %w", i, r.Size, r.Guest, err)
		}
		rs = append(rs, virtq.Region{Guest: r.Guest, User: r.User, Data: m})
	}
	g.Memory, err = virtq.NewMemory(rs)
	return g, err
}

func (g *guestMemory) mapRegion(r vumsg.Region, fd int) ([]byte, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	end := r.Offset + r.Size
	if r.Size == 0 || end < r.Size || end > uint64(st.Size) {
		// Touching what lies behind the end of the file would kill us.
		return nil, fmt.Errorf("offset %#x lies outside of its file of %#x bytes", r.Offset, st.Size)
	}
	if r.Guest%pageSize != 0 || r.User%pageSize != 0 || r.Offset%pageSize != 0 {
		return nil, fmt.Errorf("user address %#x or offset %#x not aligned", r.User, r.Offset)
	}
	// Files of huge pages can be mapped at multiples of these only, so the
	// mapping begins with the file and ends with a whole page.
	size := end
	if blk := uint64(st.Blksize); blk > pageSize && blk&(blk-1) == 0 && uint64(st.Size)%blk == 0 {
		size = (size + blk - 1) &^ (blk - 1)
	}
	m, err := unix.Mmap(fd, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	_ = unix.Madvise(m, unix.MADV_DONTDUMP)
	g.maps = append(g.maps, m)
	return m[r.Offset:end:end], nil
}

// forget gives up the pages of the guest that were touched: they stay in the
// guest's memory and no longer count as the device's.
func (g *guestMemory) forget() {
	for _, m := range g.maps {
		_ = unix.Madvise(m, unix.MADV_DONTNEED)
	}
}

func (g *guestMemory) unmap() {
	if g == nil {
		return
	}
	for _, m := range g.maps {
		_ = unix.Munmap(m)
	}
	g.maps = nil
}
