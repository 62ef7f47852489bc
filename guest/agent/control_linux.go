package agent

import (
	"os"
	"time"

	"golang.org/x/sys/unix"

	"vmfs/guest/control"
)

// control is what the control port asks and sets of this guest.
func (a *agent) control() *control.Guest {
	return &control.Guest{
		Memory: func() (control.Memory, error) {
			f, err := os.Open("/proc/meminfo")
			if err != nil {
				return control.Memory{}, err
			}
			defer f.Close()
			return control.Memory{
				Actual:    int64(a.memory.gauge.bytes(kernelMemory())),
				Available: int64(fieldOf(f, "MemAvailable") << 10),
			}, nil
		},
		SetClock: func(t time.Time) error {
			ts := unix.NsecToTimespec(t.UnixNano())
			return os.NewSyscallError("clock_settime", unix.ClockSettime(unix.CLOCK_REALTIME, &ts))
		},
	}
}
