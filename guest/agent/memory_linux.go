package agent

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	onlinePolicyFile = "/sys/devices/system/memory/auto_online_blocks"

	memoryPoll   = time.Second            // where there is no event
	memorySettle = 500 * time.Millisecond // a change is over when the size stood still for this long
	memoryReport = 3 * time.Second        // a change that goes on is reported this often
)

// memoryWatch reports changes of the guest's memory.
//
// Whole memory blocks (128 MiB on x86) come with an event each. virtio-mem's
// smaller steps within a block and the balloon change the kernel's count of pages
// and tell nobody, hence the slow poll of sysinfo(2), one system call a second.
type memoryWatch struct {
	con    *console
	gauge  memoryGauge
	kicked chan struct{}
}

func newMemoryWatch(con *console) *memoryWatch {
	w := &memoryWatch{con: con, kicked: make(chan struct{}, 1)}
	w.gauge.base = kernelMemory()
	iomem, err := os.ReadFile("/proc/iomem")
	if err != nil {
		con.printf("vmfs guest: memory: %v", err)
	}
	if w.gauge.boot = systemRAM(bytes.NewReader(iomem)); w.gauge.boot < w.gauge.base {
		w.gauge.boot = w.gauge.base // no or no true /proc/iomem
	}
	return w
}

// setOnlinePolicy makes the kernel bring plugged memory online by itself, for
// uses that let it be unplugged again, unless the command line says how.
func (w *memoryWatch) setOnlinePolicy(c cmdline) {
	if c.has("memhp_default_state") || !fileExists(onlinePolicyFile) {
		return
	}
	if err := os.WriteFile(onlinePolicyFile, []byte("online_movable"), 0); err != nil {
		w.con.printf("vmfs guest: plugged memory will stay offline: %v", err)
	}
}

// now returns the memory of the guest in MiB.
func (w *memoryWatch) now() uint64 { return w.gauge.mib(kernelMemory()) }

// kick makes the watch look now.
func (w *memoryWatch) kick() {
	select {
	case w.kicked <- struct{}{}:
	default:
	}
}

// run reports changes for ever.
func (w *memoryWatch) run() {
	reported := w.now()
	seen, since := reported, time.Now() // since: the time of the last report, or of the first sight of a change
	timer := time.NewTimer(memoryPoll)
	for {
		select {
		case <-timer.C:
		case <-w.kicked:
		}
		now := w.now()
		wait := memoryPoll
		switch {
		case now == reported && now == seen:
		case now != seen && seen == reported: // a change begins
			seen, since, wait = now, time.Now(), memorySettle
		case now != seen && time.Since(since) < memoryReport: // and goes on
			seen, wait = now, memorySettle
		default: // stands still, or takes long
			if now != reported {
				w.con.printf("vmfs guest: memory %d MiB (was %d MiB)", now, reported)
			}
			if now != seen {
				wait = memorySettle
			}
			reported, seen, since = now, now, time.Now()
		}
		timer.Reset(wait)
	}
}

// kernelMemory is the kernel's count, without what the balloon holds.
func kernelMemory() uint64 {
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		return 0 // cannot fail with a good pointer
	}
	return uint64(si.Totalram)*uint64(si.Unit) - heldInCount()
}

// heldInCount is what the balloon holds and the kernel counts nevertheless.
func heldInCount() uint64 {
	features, _ := filepath.Glob("/sys/bus/virtio/drivers/virtio_balloon/virtio*/features") // the pattern is good
	if !slices.ContainsFunc(features, func(path string) bool {
		f, _ := readTrimmed(path) // no file is no balloon
		return hasFeature(f, deflateOnOOM)
	}) {
		return 0
	}
	vmstat, err := os.ReadFile("/proc/vmstat")
	if err != nil {
		return 0
	}
	pages := fieldOf(bytes.NewReader(vmstat), "balloon_inflate") - fieldOf(bytes.NewReader(vmstat), "balloon_deflate")
	return pages * uint64(os.Getpagesize())
}
