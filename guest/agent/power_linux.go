package agent

import (
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
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

const (
	termGrace = 3 * time.Second  // for processes to end on SIGTERM
	killGrace = 2 * time.Second  // for the kernel to end them on SIGKILL
	syncGrace = 10 * time.Second // for data to reach disks; a dead file server must not hold up the end
)

// shutdown ends all processes, writes what is to be written, and ends the guest.
// It does not return unless the kernel refuses.
func shutdown(kids *reaper, act action, con *console) {
	kids.endAll()
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

// endAll asks every process but this one to end, and then makes it.
func (r *reaper) endAll() {
	// Shells ignore SIGTERM and obey SIGHUP; a stopped process needs SIGCONT.
	for _, sig := range []syscall.Signal{unix.SIGTERM, unix.SIGHUP, unix.SIGCONT} {
		_ = unix.Kill(-1, sig) // ESRCH: there is none
	}
	if r.waitAll(termGrace) {
		return
	}
	_ = unix.Kill(-1, unix.SIGKILL)
	r.waitAll(killGrace)
}

// waitAll waits until no child is left. As the orphans come to process 1, this
// is until no process is left.
func (r *reaper) waitAll(limit time.Duration) bool {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	// run, if it still does, takes some of the SIGCHLDs; the tick makes up for them.
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for r.reap() {
		select {
		case <-tick.C:
		case <-deadline.C:
			return false
		}
	}
	return true
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
