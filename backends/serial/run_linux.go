package serial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"vmfs/internal/flock"
	"vmfs/internal/unixsock"
)

// farewell is how long a process that is told to end reads what is on its way.
const farewell = 100 * time.Millisecond

// run is the process. It returns nil when the VMM has ended and all it said is in its
// place.
func run(ctx context.Context, c Config, log *slog.Logger) error {
	waiting, cancel := context.WithTimeout(ctx, lockPatience)
	lock, err := flock.File(waiting, lockPath(c.Console))
	cancel()
	if err != nil {
		if errors.Is(err, flock.ErrLocked) && ctx.Err() == nil {
			err = fmt.Errorf("another process serves this console: %w", err)
		}
		return err
	}
	defer lock.Close()
	output, err := openOutput(c.Output)
	if err != nil {
		return err
	}
	defer output.Close()
	said, err := newLog(c.Log, c.LogMax, keepTail, log)
	if err != nil {
		return err
	}
	defer said.Close()
	printed, err := newLog(c.SerialLog, c.SerialLogMax, cutHead, log)
	if err != nil {
		return err
	}
	defer printed.Close()
	l, err := unixsock.Listen(ctx, c.Console)
	if err != nil {
		return err
	}

	// The port goes on for a moment after the VMM, and the console for as long as it.
	running, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	p := newPort(c, printed, log)
	var wg sync.WaitGroup
	portDone := make(chan struct{})
	wg.Go(func() {
		defer close(portDone)
		p.run(running)
	})
	wg.Go(func() { p.console.Serve(running, l, p.take, log) })
	ended := make(chan error, 1)
	wg.Go(func() { ended <- said.copy(output) })

	select {
	case err = <-ended: // the VMM has
		p.finish(lastWords)
		<-portDone
	case <-ctx.Done():
		p.finish(farewell)
		<-portDone
		err = context.Cause(ctx)
		_ = output.SetReadDeadline(time.Unix(1, 0))
	}
	end()
	_ = l.Close() // what was ours is gone, or somebody else's
	p.console.Close()
	wg.Wait()
	removeOwn(lock)
	return err
}

// removeOwn removes a file, unless somebody else has put their own in its place.
func removeOwn(f *os.File) {
	mine, err := f.Stat()
	if err != nil {
		return
	}
	if there, err := os.Stat(f.Name()); err == nil && os.SameFile(mine, there) {
		_ = os.Remove(f.Name()) // it is of no use to anybody
	}
}

// copy appends what it reads to the file until that ends.
func (f *Log) copy(from io.Reader) error {
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		f.Append(b[:n])
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case err != nil:
			return fmt.Errorf("the VMM's words: %w", err)
		}
	}
}
