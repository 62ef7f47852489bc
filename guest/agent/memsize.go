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

// bytes returns the machine's memory now, for the kernel's count now.
func (g memoryGauge) bytes(count uint64) uint64 {
	return g.boot + count - g.base // unsigned wrap-around cancels out
}

// mib returns the same in MiB.
func (g memoryGauge) mib(count uint64) uint64 { return (g.bytes(count) + mib/2) / mib }

// deflateOnOOM is a feature of the balloon. A kernel that has agreed to it gives pages
// back by itself before it kills a program, and so leaves what the balloon holds in its
// count of memory.
const deflateOnOOM = 2

// hasFeature reads features of a virtio device as sysfs has them: a digit for each, the
// lowest first.
func hasFeature(features string, bit int) bool { return len(features) > bit && features[bit] == '1' }

// fieldOf returns the number that a file such as /proc/meminfo or /proc/vmstat has
// behind name on a line of its own, or 0.
func fieldOf(r io.Reader, name string) uint64 {
	for sc := bufio.NewScanner(r); sc.Scan(); {
		w := strings.Fields(sc.Text())
		if len(w) >= 2 && strings.TrimSuffix(w[0], ":") == name {
			n, _ := strconv.ParseUint(w[1], 10, 64) // the kernel wrote it
			return n
		}
	}
	return 0
}
