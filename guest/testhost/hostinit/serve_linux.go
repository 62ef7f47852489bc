package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"vmfs/guest/internal/reaper"
	"vmfs/guest/services"
	"vmfs/guest/testhost/internal/spec"
)

// port is the runner's end of a virtio-serial port as a stream.
type port struct{ *os.File }

func (p port) LocalAddr() net.Addr  { return &net.UnixAddr{Name: p.Name()} }
func (p port) RemoteAddr() net.Addr { return p.LocalAddr() }

// serve runs one program for the runner and returns when the runner knows of its end.
func serve(kids *reaper.Reaper) error {
	path, err := findPort()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if !awaitPeer(f, true, time.Minute) {
		return fmt.Errorf("the runner did not connect to %s", path)
	}
	x := &services.Exec{Starter: kids, Env: environment, Dir: "/root"}
	x.Framed(port{f})
	awaitPeer(f, false, 10*time.Second) // the status is under way until it hangs up
	return nil
}

func findPort() (string, error) {
	names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return "", err
	}
	for _, n := range names {
		if b, err := os.ReadFile(n); err == nil && strings.TrimSpace(string(b)) == spec.Port {
			return "/dev/" + filepath.Base(filepath.Dir(n)), nil
		}
	}
	return "", fmt.Errorf("there is no virtio-serial port %s", spec.Port)
}

// awaitPeer waits until the runner is there, or gone, and reports whether it came to that.
func awaitPeer(f *os.File, there bool, limit time.Duration) bool {
	rc, err := f.SyscallConn()
	if err != nil {
		return false
	}
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		gone := false
		_ = rc.Control(func(fd uintptr) { // fails for a closed file alone
			p := []unix.PollFd{{Fd: int32(fd)}}
			n, err := unix.Poll(p, 0)
			gone = err == nil && n > 0 && p[0].Revents&unix.POLLHUP != 0
		})
		if gone != there {
			return true
		}
	}
	return false
}
