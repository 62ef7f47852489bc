package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"vmfs/internal/wait"
)

// boot tells one boot of the host from another: start times count from it.
var boot = sync.OnceValue(func() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "boot"
	}
	return strings.TrimSpace(string(b))
})

// inspect reads /proc/PID/stat.
func inspect(pid int) (start string, alive bool, err error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ESRCH):
		return "", false, nil
	case err != nil:
		return "", false, err
	}
	// The second field is the program's name in brackets, which may hold anything.
	i := bytes.LastIndexByte(b, ')')
	fields := strings.Fields(string(b[i+1:]))
	const state, threads, starttime = 0, 20 - 3, 22 - 3 // fields 3, 20 and 22 of proc(5)
	if i < 0 || len(fields) <= starttime {
		return "", false, fmt.Errorf("/proc/%d/stat: not understood: %q", pid, b)
	}
	switch fields[state] {
	case "Z", "X", "x":
		// Of a killed process that is its first thread's state, and others may yet be
		// ending: its files and sockets are still open.
		if n, err := strconv.Atoi(fields[threads]); err != nil || n <= 1 {
			return "", false, nil
		}
	}
	return boot() + "/" + fields[starttime], true, nil
}

// open returns a pidfd that is p's and no other's.
func (p Process) open() (int, error) {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return -1, ErrEnded
	}
	if err != nil {
		return -1, fmt.Errorf("pidfd_open: %w", err)
	}
	// The pidfd was there before this look at the start time: if that is p's now,
	// then the pid was p's all the time between.
	start, alive, err := inspect(p.PID)
	if err == nil && (!alive || start != p.Start) {
		err = ErrEnded
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func (p Process) wait(ctx context.Context) (Exit, error) {
	if err := ctx.Err(); err != nil {
		return Exit{}, err
	}
	fd, err := p.open()
	switch {
	case errors.Is(err, ErrEnded):
		return Exit{}, nil
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM):
		return Exit{}, p.waitByLooking(ctx)
	case err != nil:
		return Exit{}, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return Exit{}, err
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer f.Close()
	// A pidfd becomes readable when its process ends, so the run-time's poller waits
	// for it as for a socket, and a deadline in the past wakes it.
	stop := context.AfterFunc(ctx, func() { f.SetReadDeadline(time.Unix(1, 0)) })
	if err := waitPoll(f, unix.POLLIN); err != nil {
		stop()
		if ctx.Err() != nil {
			return Exit{}, ctx.Err()
		}
		return Exit{}, err
	}
	if !stop() {
		return Exit{}, nil
	}
	// How it ended is told once its parent has reaped it, which a parent does at
	// once or not at all.
	f.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if waitPoll(f, unix.POLLHUP) != nil {
		return Exit{}, nil
	}
	return exitOf(f), nil
}

// waitPoll waits until poll(2) reports one of events for f.
func waitPoll(f *os.File, events int16) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	return rc.Read(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd), Events: events}}
		n, err := unix.Poll(fds, 0)
		return err == nil && n > 0 && fds[0].Revents&events != 0
	})
}

// pidfdInfo is struct pidfd_info of <linux/pidfd.h> in its first published size.
type pidfdInfo struct {
	mask     uint64
	_        uint64
	_        [11]uint32
	exitCode int32
}

// pidfdGetInfo is PIDFD_GET_INFO, _IOWR(0xff, 11, struct pidfd_info).
const pidfdGetInfo = 3<<30 | unsafe.Sizeof(pidfdInfo{})<<16 | 0xff<<8 | 11

func exitOf(f *os.File) Exit {
	rc, err := f.SyscallConn()
	if err != nil {
		return Exit{}
	}
	info := pidfdInfo{mask: unix.PIDFD_INFO_EXIT}
	var errno syscall.Errno
	if err := rc.Control(func(fd uintptr) {
		_, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, pidfdGetInfo, uintptr(unsafe.Pointer(&info)))
	}); err != nil || errno != 0 || info.mask&unix.PIDFD_INFO_EXIT == 0 {
		return Exit{}
	}
	ws := syscall.WaitStatus(info.exitCode)
	if ws.Signaled() {
		return Exit{Known: true, Signal: ws.Signal()}
	}
	return Exit{Known: true, Code: ws.ExitStatus()}
}

// waitByLooking is for kernels before 5.3 and for sandboxes that forbid
// pidfd_open: they offer nothing that can be waited for.
func (p Process) waitByLooking(ctx context.Context) error {
	return wait.Until(ctx, 100*time.Millisecond, func() (bool, error) { return !p.Alive(), nil })
}

func (p Process) signal(sig syscall.Signal) error {
	fd, err := p.open()
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		if !p.Alive() {
			return ErrEnded
		}
		return ended(unix.Kill(p.PID, sig))
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return ended(unix.PidfdSendSignal(fd, sig, nil, 0))
}

func ended(err error) error {
	if errors.Is(err, unix.ESRCH) {
		return ErrEnded
	}
	return err
}
