// Package process knows a process by its pid and its start time, so that a pid
// that the system has given to another process since is never taken for it. The
// processes need not be children: a server that was restarted waits for and
// signals the ones that its predecessor started.
//
// It also starts processes, those of VMMs and of what is beside them, asks their programs
// what they are, and finds who is at the other end of a socket. On Linux a process is
// started by a stage, which is this program executed again: an init function of this
// package takes over then, so that it works in every program that links it, tests
// included, and nothing has to be called (see stage_linux.go). It takes 2 ms.
//
// The package imports the standard library, golang.org/x/sys, internal/regular and
// internal/unixsock.
package process

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"
)

// ErrEnded means that the process does not run: it never did, it ended, or the
// pid is another process's now. A zombie has ended.
var ErrEnded = errors.New("process has ended")

// A Process is one process of this host, from its start to its end. It is a plain
// value: it can be compared and written to a file. The zero Process is none; it
// has ended.
type Process struct {
	PID int `json:"pid"`
	// Start tells the processes that have had this pid apart. It is opaque and
	// differs between two boots of the host.
	Start string `json:"start"`
}

// An Exit is how a process ended, as far as the system tells those that are not
// its parent: Linux does from 6.15 on, others do not.
type Exit struct {
	Known  bool
	Code   int            // the exit status, if Signal is 0
	Signal syscall.Signal // what killed it
}

// String says how as a few words, "" where it is not known.
func (e Exit) String() string {
	switch {
	case !e.Known:
		return ""
	case e.Signal != 0:
		return "signal: " + e.Signal.String()
	default:
		return fmt.Sprintf("exit status %d", e.Code)
	}
}

// Find returns the process that has the pid now, or ErrEnded.
func Find(pid int) (Process, error) {
	if pid <= 0 {
		return Process{}, fmt.Errorf("process %d: %w", pid, ErrEnded)
	}
	start, alive, err := inspect(pid)
	if err != nil {
		return Process{}, fmt.Errorf("process %d: %w", pid, err)
	}
	if !alive {
		return Process{}, fmt.Errorf("process %d: %w", pid, ErrEnded)
	}
	return Process{PID: pid, Start: start}, nil
}

// IsZero tells whether p is no process at all.
func (p Process) IsZero() bool { return p == Process{} }

// Alive tells whether the process still runs.
func (p Process) Alive() bool {
	if p.PID <= 0 {
		return false
	}
	start, alive, err := inspect(p.PID)
	return err == nil && alive && start == p.Start
}

// Wait returns nil when the process has ended, or the context's error.
func (p Process) Wait(ctx context.Context) error {
	_, err := p.WaitExit(ctx)
	return err
}

// WaitExit waits as Wait does and tells how the process ended, if that can be
// known.
func (p Process) WaitExit(ctx context.Context) (Exit, error) {
	if p.PID <= 0 {
		return Exit{}, nil
	}
	exit, err := p.wait(ctx)
	if err != nil {
		return Exit{}, fmt.Errorf("wait for process %d: %w", p.PID, err)
	}
	return exit, nil
}

// End ends the process: it asks it to (SIGTERM), and kills it if it has not ended after
// patience. A process that has ended already is no error.
func (p Process) End(ctx context.Context, patience time.Duration) error {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if err := p.Signal(sig); err != nil {
			if errors.Is(err, ErrEnded) {
				return nil
			}
			return err
		}
		wait, cancel := context.WithTimeout(ctx, patience)
		err := p.Wait(wait)
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
	return fmt.Errorf("process %d was killed and does not end", p.PID)
}

// Signal sends sig to the process and to no other. It returns ErrEnded where the
// process has ended.
func (p Process) Signal(sig syscall.Signal) error {
	err := ErrEnded
	if p.PID > 0 {
		err = p.signal(sig)
	}
	if err != nil {
		return fmt.Errorf("send %v to process %d: %w", sig, p.PID, err)
	}
	return nil
}
