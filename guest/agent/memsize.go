package agent

import (
	"bufio"
	"io"
	"strconv"
	"strings"
)

const mib = 1 << 20

// systemRAM adds up the RAM that /proc/iomem lists at its top level, rounded up
// to whole MiB: the firmware keeps a few hundred KiB below each of them.
func systemRAM(iomem io.Reader) uint64 {
	var sum uint64
	for sc := bufio.NewScanner(iomem); sc.Scan(); {
		span, what, ok := strings.Cut(sc.Text(), " : ")
		if !ok || what != "System RAM" || strings.HasPrefix(span, " ") {
			continue
		}
		lo, hi, _ := strings.Cut(span, "-")
		first, err1 := strconv.ParseUint(lo, 16, 64)
		last, err2 := strconv.ParseUint(hi, 16, 64)
		if err1 == nil && err2 == nil && last > first {
			sum += last - first + 1
		}
	}
	return (sum + mib - 1) / mib * mib
}

// memoryGauge turns the kernel's count of usable memory, which leaves out what
// the kernel itself took at boot, into the size of the machine.
type memoryGauge struct {
	boot uint64 // the machine's memory at boot
	base uint64 // the kernel's count at boot
}

// mib returns the machine's memory now, in MiB, for the kernel's count now.
func (g memoryGauge) mib(count uint64) uint64 {
	return (g.boot + count - g.base + mib/2) / mib // unsigned wrap-around cancels out
}
