package flock

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"vmfs/internal/regular"
	"vmfs/internal/wait"
)

// Holder returns the pid of the process that has the lock of the file path, 0 if
// nobody has or there is no file. The kernel says who it is, so that it does not
// count what that process says of itself. One that is just ending is waited for, as
// long as ctx lets it.
func Holder(ctx context.Context, path string) (pid int, err error) {
	pause := wait.Backoff{First: time.Millisecond, Most: 20 * time.Millisecond}
	for {
		f, err := regular.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			return 0, nil
		}
		if err != nil {
			return 0, err
		}
		pid, err := holder(f)
		_ = f.Close() // it was only read
		if err == nil || !errors.Is(err, errUnknown) {
			return pid, err
		}
		if ended := pause.Wait(ctx); ended != nil {
			return 0, fmt.Errorf("%w: %w", err, ended)
		}
	}
}

var errUnknown = errors.New("locked by a process that cannot be found")

func holder(f *os.File) (pid int, err error) {
	// A shared lock, and only for a moment: it keeps nobody out who asks as we do.
	switch err := try(f, syscall.LOCK_SH); {
	case err == nil:
		return 0, nil
	case !errors.Is(err, ErrLocked):
		return 0, err
	}
	fi, err := f.Stat()
	if err != nil {
		return 0, err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, fmt.Errorf("%s: %w", f.Name(), errUnknown)
	}
	locks, err := os.Open("/proc/locks")
	if err != nil {
		return 0, err
	}
	defer locks.Close()
	// 1: FLOCK ADVISORY WRITE 29836 fe:00:10030040 0 EOF
	// The device is not compared: some file systems have one here and tell another
	// by stat(2). That the process has this file open settles it.
	for lines := bufio.NewScanner(locks); lines.Scan(); {
		w := strings.Fields(lines.Text())
		if len(w) < 6 || w[1] != "FLOCK" || w[5][strings.LastIndexByte(w[5], ':')+1:] != strconv.FormatUint(st.Ino, 10) {
			continue
		}
		if pid, err := strconv.Atoi(w[4]); err == nil && pid > 0 && hasOpen(pid, fi) {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("%s: %w", f.Name(), errUnknown)
}

// hasOpen tells whether a process has a file open.
func hasOpen(pid int, want os.FileInfo) bool {
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid)) // the pattern is good
	return slices.ContainsFunc(fds, func(fd string) bool {
		fi, err := os.Stat(fd)
		return err == nil && os.SameFile(fi, want)
	})
}
