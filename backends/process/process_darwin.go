package process

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"vmfs/internal/wait"

	"golang.org/x/sys/unix"
)

const stateZombie = 5 // SZOMB of <sys/proc.h>

func inspect(pid int) (start string, alive bool, err error) {
	k, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
	switch {
	// For a pid that nobody has the call answers with nothing, which is EIO.
	case errors.Is(err, unix.EIO), errors.Is(err, unix.ESRCH):
		return "", false, nil
	case err != nil:
		return "", false, err
	}
	if int(k.Proc.P_pid) != pid || k.Proc.P_stat == stateZombie {
		return "", false, nil
	}
	t := k.Proc.P_starttime
	return fmt.Sprintf("%d.%06d", t.Sec, t.Usec), true, nil
}

// wake is the ident of the user event by which the context ends a wait.
const wake = 1

func (p Process) wait(ctx context.Context) (Exit, error) {
	if err := ctx.Err(); err != nil {
		return Exit{}, err
	}
	kq, err := unix.Kqueue()
	if err != nil {
		return Exit{}, err
	}
	defer unix.Close(kq)
	unix.CloseOnExec(kq)
	changes := []unix.Kevent_t{
		{Ident: wake, Filter: unix.EVFILT_USER, Flags: unix.EV_ADD | unix.EV_CLEAR},
		{Ident: uint64(p.PID), Filter: unix.EVFILT_PROC, Flags: unix.EV_ADD, Fflags: unix.NOTE_EXIT},
	}
	if _, err := unix.Kevent(kq, changes, nil, nil); err != nil {
		if errors.Is(err, unix.ESRCH) {
			return Exit{}, nil
		}
		return Exit{}, err
	}
	// The event is on whoever has the pid; this look comes after it.
	if !p.Alive() {
		return Exit{}, nil
	}
	stop := wait.Interrupt(ctx, func() {
		unix.Kevent(kq, []unix.Kevent_t{{Ident: wake, Filter: unix.EVFILT_USER, Fflags: unix.NOTE_TRIGGER}}, nil, nil)
	})
	defer stop() // kq stays open as long as it is used
	events := make([]unix.Kevent_t, 1)
	for {
		n, err := unix.Kevent(kq, nil, events, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return Exit{}, err
		case n > 0 && events[0].Filter == unix.EVFILT_PROC:
			return Exit{}, nil
		}
		if err := ctx.Err(); err != nil {
			return Exit{}, err
		}
	}
}

// signal has the small gap between the look and the signal that a system without
// handles on processes leaves.
func (p Process) signal(sig syscall.Signal) error {
	if !p.Alive() {
		return ErrEnded
	}
	if err := unix.Kill(p.PID, sig); err != nil {
		if errors.Is(err, unix.ESRCH) {
			return ErrEnded
		}
		return err
	}
	return nil
}
