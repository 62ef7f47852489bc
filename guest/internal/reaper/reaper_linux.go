// Package reaper is what process 1 needs of processes: it starts children, waits
// for every process that ends, and ends them all. It imports guest/services, whose
// Starter it is, and golang.org/x/sys.
package reaper

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vmfs/guest/services"
)

// Reaper starts children and waits for every process that ends: its own and the
// orphans that process 1 inherits. os/exec cannot be used beside it, as each
// would take the other's children.
type Reaper struct {
	mu   sync.Mutex // guards kids; held over fork and wait, so that no child ends unknown
	kids map[int]*child

	sigchld chan os.Signal
}

// child is a process that the agent started.
type child struct {
	pid  int
	done chan struct{} // closed once status is set
	stat syscall.WaitStatus
}

// New returns a Reaper. It is told of ends from now on; Run waits for them.
func New() *Reaper {
	r := &Reaper{kids: map[int]*child{}, sigchld: make(chan os.Signal, 1)}
	signal.Notify(r.sigchld, syscall.SIGCHLD)
	return r
}

// Run reaps for ever.
func (r *Reaper) Run() {
	for range r.sigchld {
		r.reap()
	}
}

// reap waits for all that have ended and reports whether there are children left.
func (r *Reaper) reap() (left bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil: // ECHILD
			return false
		case pid == 0:
			return true
		default:
			if c := r.kids[pid]; c != nil {
				delete(r.kids, pid)
				c.stat = ws
				close(c.done)
			}
		}
	}
}

// Start starts a program with files as its descriptors 0, 1, 2, ….
func (r *Reaper) Start(path string, argv, env []string, dir string, files []*os.File, sys *syscall.SysProcAttr) (services.Process, error) {
	attr := &syscall.ProcAttr{Dir: dir, Env: env, Sys: sys}
	for _, f := range files {
		attr.Files = append(attr.Files, f.Fd())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	c := &child{pid: pid, done: make(chan struct{})}
	r.kids[pid] = c
	return c, nil
}

var _ services.Starter = (*Reaper)(nil)

func (c *child) Pid() int              { return c.pid }
func (c *child) Done() <-chan struct{} { return c.done }

// Status returns the exit status as a shell would count it, 128+N for signal N.
// It is to be called after the end.
func (c *child) Status() int {
	if c.stat.Signaled() {
		return 128 + int(c.stat.Signal())
	}
	return c.stat.ExitStatus()
}

// Wait waits for a process's end and returns its status.
func Wait(c services.Process) int {
	<-c.Done()
	return c.Status()
}

// How long EndAll waits.
const (
	termGrace = 3 * time.Second // for processes to end on SIGTERM
	killGrace = 2 * time.Second // for the kernel to end them on SIGKILL
)

// EndAll asks every process but this one to end, and then makes it.
func (r *Reaper) EndAll() {
	// Shells ignore SIGTERM and obey SIGHUP; a stopped process needs SIGCONT.
	for _, sig := range []syscall.Signal{unix.SIGTERM, unix.SIGHUP, unix.SIGCONT} {
		_ = unix.Kill(-1, sig) // ESRCH: there is none
	}
	if r.waitAll(termGrace) {
		return
	}
	_ = unix.Kill(-1, unix.SIGKILL)
	r.waitAll(killGrace)
}

// waitAll waits until no child is left. As the orphans come to process 1, this
// is until no process is left.
func (r *Reaper) waitAll(limit time.Duration) bool {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	// run, if it still does, takes some of the SIGCHLDs; the tick makes up for them.
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for r.reap() {
		select {
		case <-tick.C:
		case <-deadline.C:
			return false
		}
	}
	return true
}
