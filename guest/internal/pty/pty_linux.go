// Package pty opens Linux pseudo-terminals, whose readers Close wakes. It imports
// golang.org/x/sys and golang.org/x/term.
//
// It is not github.com/creack/pty (1.1.24), which takes the descriptor from Go's
// poller: then neither a deadline nor Close ends a Read, which its users need.
package pty

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// Open opens a pseudo-terminal of the given size.
func Open(rows, cols uint16) (master, slave *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open /dev/ptmx: %w", err)
	}
	master = os.NewFile(uintptr(fd), "/dev/ptmx") // non-blocking: Close wakes a reader
	defer func() {
		if err != nil {
			master.Close()
		}
	}()
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, fmt.Errorf("unlock pty: %w", err)
	}
	n, err := unix.IoctlGetUint32(fd, unix.TIOCGPTN)
	if err != nil {
		return nil, nil, fmt.Errorf("pty number: %w", err)
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols}); err != nil {
		return nil, nil, fmt.Errorf("pty size: %w", err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	return master, slave, nil
}

// SetSize tells the terminal's programs, by SIGWINCH, of a new size.
func SetSize(master *os.File, rows, cols uint16) error {
	return control(master, func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	})
}

// MakePlain makes the terminal suit a peer that echoes and edits lines itself: it
// sends lines, gets no echo, and no carriage returns.
func MakePlain(tty *os.File) error {
	return control(tty, func(fd int) error {
		t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err != nil {
			return err
		}
		t.Lflag &^= unix.ECHO
		t.Oflag &^= unix.ONLCR
		return unix.IoctlSetTermios(fd, unix.TCSETS, t)
	})
}

// MakeRaw switches off all that a terminal does with bytes on their way.
func MakeRaw(tty *os.File) error {
	return control(tty, func(fd int) error {
		_, err := term.MakeRaw(fd)
		return err
	})
}

// control runs f on the descriptor without taking it from Go's poller, as Fd would.
func control(file *os.File, f func(fd int) error) error {
	rc, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := rc.Control(func(fd uintptr) { ferr = f(int(fd)) }); err != nil {
		return err
	}
	return ferr
}
