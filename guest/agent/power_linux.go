package agent

import (
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"vmfs/guest/internal/reaper"
)

// action is a way to end the guest.
type action int

const (
	powerOff action = iota
	restart
)

func (a action) String() string {
	if a == restart {
		return "rebooting"
	}
	return "powering off"
}

// syncGrace is how long data has to reach disks; a dead file server must not hold
// up the end.
const syncGrace = 10 * time.Second

// shutdown ends all processes, writes what is to be written, and ends the guest.
// It does not return unless the kernel refuses.
func shutdown(kids *reaper.Reaper, act action, con *console) {
	kids.EndAll()
	within(syncGrace, func() {
		unix.Sync()
		releaseMounts()
		unix.Sync()
	})
	if con != nil {
		con.flush(time.Second)
	}
	cmd := unix.LINUX_REBOOT_CMD_POWER_OFF
	if act == restart {
		cmd = unix.LINUX_REBOOT_CMD_RESTART
	}
	if err := unix.Reboot(cmd); err != nil && con != nil {
		con.printf("vmfs guest: %s: %v", act, err)
	}
	// The kernel may need a moment, or lack a way to cut the power.
	for {
		time.Sleep(time.Hour)
	}
}

// releaseMounts unmounts what was mounted since the boot, or at least makes it
// read-only, so that disks are clean.
func releaseMounts() {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return
	}
	own := map[string]bool{"/": true}
	for _, m := range mounts {
		own[m.dir] = true
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		f := strings.Fields(lines[i])
		if len(f) < 2 || own[f[1]] {
			continue
		}
		dir := unescapeMount(f[1])
		if unix.Unmount(dir, 0) != nil {
			_ = unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, "") // the best that is left
		}
	}
}

// within runs f and waits for it no longer than limit.
func within(limit time.Duration, f func()) {
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(limit):
	}
}
