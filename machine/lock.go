package machine

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"vmfs/backends/process"
	"vmfs/internal/flock"
	"vmfs/internal/wait"
)

// lockDir takes the lock of a state directory. It is held until the file is
// closed, and so at the latest when this process ends, however it ends.
func lockDir(ctx context.Context, dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	// A child that a killed server was just spawning holds the lock until it
	// executes its program: give it that moment, if nobody else has the lock.
	wctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for err = flock.Try(f); err != nil; err = flock.Try(f) {
		if !errors.Is(err, flock.ErrLocked) {
			break
		}
		holder := readPID(f)
		if _, alive := process.Find(holder); alive == nil || wait.For(wctx, 10*time.Millisecond) != nil {
			err = &LockedError{Dir: dir, PID: holder}
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	// The pid is for people. A disk too full for it is no reason not to serve.
	if err := f.Truncate(0); err == nil {
		f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return f, nil
}

func readPID(f *os.File) int {
	b, err := io.ReadAll(io.NewSectionReader(f, 0, 32))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	return pid
}
