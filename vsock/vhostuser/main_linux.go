package vhostuser

import (
	"context"
	"errors"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"golang.org/x/sys/unix"
)

// Main is the body of a process that is nothing but the device of one VM. It
// sets the process up for that: it outlives the terminal and the reader of its
// log, keeps its memory small, gains no privileges, and ends when the VM or
// ctx does, which are both no error.
func Main(ctx context.Context, cfg Config) error {
	d, err := New(cfg)
	if err != nil {
		return err
	}
	// A log that nobody reads any more must not kill the VM's streams.
	signal.Ignore(syscall.SIGPIPE, syscall.SIGHUP)
	_ = unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	// There is one goroutine with work to do, and next to nothing on the
	// heap: what it carries is in the guest's memory and the arena.
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(25)
	debug.FreeOSMemory() // what the program's start has left behind

	err = d.Run(ctx)
	if ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
		return nil
	}
	return err
}
