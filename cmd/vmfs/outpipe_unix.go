//go:build unix

package main

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// exitBrokenPipe is the status of a process that SIGPIPE ended.
const exitBrokenPipe = 128 + int(unix.SIGPIPE)

// exitWithReader ends the process when out is a pipe whose reader goes away. A
// write would tell, but a command that waits for a file to say more may have
// nothing to write for long: vmfs cat web/console | grep -m1 login.
func exitWithReader(out io.Writer) {
	f, ok := out.(*os.File)
	if !ok {
		return
	}
	fi, err := f.Stat()
	if err != nil || fi.Mode()&(os.ModeNamedPipe|os.ModeSocket) == 0 {
		return
	}
	go func() {
		fds := []unix.PollFd{{Fd: int32(f.Fd())}} // no events: errors and hang-ups are told always
		for {
			_, err := unix.Poll(fds, -1)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err == nil && fds[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0 {
				os.Exit(exitBrokenPipe)
			}
			return
		}
	}()
}
