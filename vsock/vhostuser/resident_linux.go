package vhostuser

import (
	"bytes"
	"os"
	"strconv"
)

const (
	// residentEvery is how many bytes are moved between two looks at the
	// pages of the guest that count as ours, residentMax how many bytes of
	// these there may be.
	residentEvery = 1 << 20
	residentMax   = 1 << 20
)

// resident keeps the device's resident memory small. Packets lie all over the
// guest's memory, and each page touched would count as the device's from then
// on, until all of the guest's memory did.
type resident struct {
	statm *os.File
	base  int64 // shared pages without those of the guest
	moved int   // bytes since the last look
}

func newResident() *resident {
	r := &resident{}
	f, err := os.Open("/proc/self/statm")
	if err != nil {
		return r // no /proc: the pages just count
	}
	r.statm = f
	r.base = r.shared()
	return r
}

func (r *resident) close() {
	if r.statm != nil {
		_ = r.statm.Close()
	}
}

// shared returns the bytes of files and shared memory in the page tables.
func (r *resident) shared() int64 {
	var buf [128]byte
	n, _ := r.statm.ReadAt(buf[:], 0)
	_, rest, _ := bytes.Cut(buf[:n], []byte{' '})
	_, rest, _ = bytes.Cut(rest, []byte{' '})
	word, _, _ := bytes.Cut(rest, []byte{' '})
	pages, _ := strconv.ParseInt(string(word), 10, 64)
	return pages * int64(os.Getpagesize())
}

// count is told of bytes moved to or from g.
func (r *resident) count(n int, g *guestMemory) {
	if r.moved += n; r.moved < residentEvery || r.statm == nil || g == nil {
		return
	}
	r.moved = 0
	if r.shared() > r.base+residentMax {
		g.forget()
		// What is left are the program's own pages, of which there may be
		// more by now.
		r.base = r.shared()
	}
}
